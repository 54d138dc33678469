"""Everything in one command: sweep, collect, draw, judge, report.

    python -m scripts.reproduce scale=S [experiments=E1,E2] [key=value ...]

``scale`` is smoke, quick or paper; without ``experiments`` all of them are run. Further overrides
go to the sweeps (``results_dir=DIR``, ``tracking=disabled``, ``hydra/launcher=basic``, ...).
Finished runs are not run again, so it can be stopped and started at any time.
"""

import sys
import threading
from collections.abc import Sequence

from runners.config import ConfigError, check_option, groups
from runners.sweep import sweep

LAUNCHER = "hydra/launcher=joblib"


def reproduce(experiments: Sequence[str], overrides: Sequence[str]) -> int:
    """Run and judge ``experiments``; returns the exit code, 0 when every run of each finished."""
    given = [o for o in overrides if o.startswith("hydra/launcher=")]
    launcher = [] if given else [LAUNCHER]
    plain = [o for o in overrides if not o.startswith(("hydra/", "hydra."))]
    for experiment in experiments:
        check_option("experiment", experiment)
    # The sweep's processes do the work; meanwhile this one can get ready for the analysis.
    threading.Thread(target=_import_analysis, daemon=True).start()
    failed = False
    for experiment in experiments:
        print(f"== {experiment}", flush=True)
        if sweep([f"experiment={experiment}", *overrides, *launcher]) != 0:
            failed = True
            continue
        from scripts import judging
        from scripts.figures.__main__ import make

        folder, verdicts = make(experiment, plain)
        print(judging.to_text(verdicts))
        print(f"\n{folder / 'figure.png'}\n{folder.parent.parent / 'REPORT.md'}")
    return 1 if failed else 0


def _import_analysis() -> None:
    """pandas, scipy and matplotlib take several seconds to import."""
    import scripts.figures.__main__  # noqa: F401


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(a in ("-h", "--help") for a in arguments):
        print((__doc__ or "").strip())
        return 0
    chosen = [a.removeprefix("experiments=") for a in arguments if a.startswith("experiments=")]
    overrides = [a for a in arguments if not a.startswith("experiments=")]
    everything = [name for name in groups()["experiment"] if name != "none"]
    experiments = chosen[-1].split(",") if chosen else everything
    try:
        return reproduce(experiments, overrides)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
