"""A bar on a terminal, a line at the start elsewhere."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Sequence[Item], label: str) -> Iterable[Item]:
    terminal = sys.stderr.isatty()
    if not terminal:
        print(f"{label}: {len(items)}", file=sys.stderr, flush=True)
    return tqdm(items, desc=label, disable=not terminal)
