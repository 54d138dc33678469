"""How far a run is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from runners.record import median_text

SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """Progress of one run in steps, on stderr; silent unless ``enabled``."""

    def __init__(self, label: str, total: int, start: int, enabled: bool) -> None:
        self._label, self._total, self._enabled = label, total, enabled
        self._bar: Any = None
        self._last_line = time.monotonic()
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=start, desc=label, unit="step", leave=False)

    def show(self, row: dict[str, Any]) -> None:
        if not self._enabled:
            return
        metrics = ", ".join(
            f"{k} {median_text(v, ',.6g')}" for k, v in row.items() if isinstance(v, list)
        )
        if self._bar is not None:
            self._bar.set_postfix_str(metrics, refresh=False)
            self._bar.update(row["step"] - self._bar.n)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(
                f"{self._label}: step {row['step']:,}/{self._total:,}, {metrics}", file=sys.stderr
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
