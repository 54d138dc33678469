"""Everything in one command: sweep, collect, draw, judge, report.

    python -m scripts.reproduce scale=S [experiments=E1,E2] [key=value ...]

``scale`` is smoke, quick (unless given) or paper; without ``experiments`` all of them are run. ``optimizers=+MINE``
adds the optimizer of conf/optimizer/MINE.yaml to the experiments that compare all optimizers, and
runs only these; results go beside the real ones, to ``<scale>+MINE``. Further overrides
go to the sweeps (``results_dir=DIR``, ``tracking=disabled``, ``hydra/launcher=basic``, ...).
Finished runs are not run again, so it can be stopped and started at any time.
"""

import difflib
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runners import record
from runners.command import command, print_help
from runners.config import (
    ROOT,
    ConfigError,
    added,
    all_experiments,
    experiment_values,
    folder_name,
    hint,
    on_leaderboard,
)
from runners.plan import plan
from runners.sweep import state, sweep

CHOSEN = "experiments"  # the key of this command
LAUNCHER = "hydra/launcher=joblib"


def reproduce(experiments: Sequence[str], overrides: Sequence[str]) -> int:
    """Run and judge ``experiments``; returns the exit code, 0 when every run of each finished."""
    given = [o for o in overrides if o.startswith("hydra/launcher=")]
    launcher = [] if given else [LAUNCHER]
    plain = [o for o in overrides if not o.startswith(("hydra/", "hydra."))]
    # The sweep's processes do the work; meanwhile this one can get ready for the analysis.
    threading.Thread(target=_import_analysis, daemon=True).start()
    values = experiment_values([f"experiment={experiments[0]}", *plain])
    folder = Path(values["results_dir"])
    clock = _Clock(_costs(experiments, plain, values["scale"]))
    verdicts, failed = [], False
    for place, experiment in enumerate(experiments):
        print(f"== {experiment} ({place + 1} of {len(experiments)}{clock.left()})", flush=True)
        incomplete = sweep([f"experiment={experiment}", *overrides, *launcher]) != 0
        clock.done(experiment)
        from scripts.figures.__main__ import make

        try:
            made, found = make(experiment, plain)
            print(made / "figure.png")
            verdicts += found
        except ConfigError as error:
            # where runs are missing `sweep` has said what to do about it
            reason = str(error).partition(";")[0] if incomplete else str(error)
            print(f"{experiment}: no verdicts: {reason}", file=sys.stderr)
            failed = True
        failed = failed or incomplete
    from scripts import judging, report

    print("\n" + judging.to_text(verdicts))
    pages = [*report.write(folder), *_leaderboard(folder, values["scale"], added(plain))]
    print("\n" + "\n".join(map(str, pages)))
    if values["scale"] not in report.SCALES:
        print(f"(scale {values['scale']} shows that all works, and is left out of the report)")
    return 1 if failed else 0


def _leaderboard(folder: Path, scale: str, more: Sequence[str]) -> list[Path]:
    """The board with the optimizers that were added; the one without them is the report's."""
    from scripts import leaderboard

    try:
        if not more:
            return []
        made = leaderboard.make(folder, folder_name(scale, more))
        print("\n" + leaderboard.to_text(made))
        return [made / "README.md"]
    except ConfigError as error:  # nothing to rank, as the experiments were changed in other ways
        print(f"no leaderboard: {error}", file=sys.stderr)
        return []


class _Clock:
    """How long the rest will take, from what the experiments cost elsewhere and cost so far."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        self._waiting = dict(costs)
        self._start, self._paid = time.monotonic(), 0.0

    def done(self, experiment: str) -> None:
        self._paid += self._waiting.pop(experiment)

    def left(self) -> str:
        """For the end of a line; empty before anything can be said."""
        if self._paid == 0:
            return ""
        gone = time.monotonic() - self._start
        left = gone / self._paid * sum(self._waiting.values())
        return f"; {_minutes(gone)} gone, about {_minutes(left)} left"


def _costs(experiments: Sequence[str], overrides: Sequence[str], scale: str) -> dict[str, float]:
    """What each still has to do, in seconds of training of the runs that are missing.

    A run's seconds are those of the committed results; an experiment without any counts as the
    median of the others.
    """
    from scripts import provenance

    known = {}
    for experiment in experiments:
        about = provenance.read(ROOT / "results" / experiment / scale)
        seconds = about.get("train_seconds")
        known[experiment] = seconds / about["runs"] if seconds else None
    usual = statistics.median([cost for cost in known.values() if cost] or [1.0])
    found = {}
    for experiment, cost in known.items():
        jobs = plan([f"experiment={experiment}", *overrides])
        missing = sum(state(job.config) not in record.FINISHED for job in jobs)
        found[experiment] = missing * (usual if cost is None else cost)
    return found


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"


def _import_analysis() -> None:
    """pandas, scipy and matplotlib take several seconds to import."""
    import scripts.figures.__main__  # noqa: F401


@command
def main(arguments: list[str]) -> int:
    if not arguments:
        print_help(main)
        return 2
    overrides = [a for a in arguments if not a.startswith(f"{CHOSEN}=")]
    everything = possible = all_experiments()
    for key in (a.partition("=")[0] for a in overrides):
        if difflib.get_close_matches(key, [CHOSEN], cutoff=0.8):
            raise ConfigError(f"{key}: unknown key; did you mean {CHOSEN}?")
    chosen = [a.partition("=")[2] for a in arguments if a.startswith(f"{CHOSEN}=")]
    if added(overrides):
        everything = on_leaderboard()
    experiments = [*dict.fromkeys(chosen[-1].split(","))] if chosen else everything
    experiments = [e for e in experiments if e]
    for name in experiments:
        if name not in possible:
            raise ConfigError(f"{CHOSEN}={name}: unknown experiment{hint(name, everything)}")
    if not experiments:
        raise ConfigError(f"{CHOSEN}=: one or more of {', '.join(everything)} expected")
    return reproduce(experiments, overrides)


if __name__ == "__main__":
    sys.exit(main())
