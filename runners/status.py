"""Where the runs of an experiment stand.

    python -m runners.status [--watch] experiment=E scale=S [key=value ...]

One line a state, then the runs that are not finished; a failed one with its traceback, one in a
Slurm queue with what Slurm says of it. The exit code is 0 when every run is finished, else 1.
--watch looks again every few seconds, from any machine that sees results_dir, until something has
begun and nothing is running or queued any more.
"""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from runners import record
from runners.cluster import queued
from runners.command import command
from runners.config import ConfigError
from runners.plan import Job, plan
from runners.run import RUNNING
from runners.sweep import MISSING, state

QUEUED = "queued or starting"  # a job that runs may not have come to it yet
WATCH_SECONDS = 5.0


@command
def main(overrides: list[str]) -> int:
    named = [o for o in overrides if o not in ("-m", "--multirun", "--watch")]
    if all(o.startswith("results_dir=") for o in named):
        raise ConfigError("experiment=E scale=S, or task=T and what else the runs were "
                          "started with, expected")  # fmt: skip
    jobs = plan(named)
    folder = Path(jobs[0].config.values["results_dir"])
    if not folder.is_dir() and "--watch" not in overrides:
        raise ConfigError(f"results_dir={folder}: no such folder")
    if "--watch" in overrides:
        try:
            _watch(jobs)
        except KeyboardInterrupt:  # the way to leave it
            return 130
    states, waiting = look(jobs)
    print("\n".join(_counts(states)))
    for job, name in zip(jobs, states, strict=True):
        if name in record.FINISHED:
            continue
        line = record.read_last_line(job.config.folder) or {}
        where = f", {waiting[job.config.key]}" if job.config.key in waiting else ""
        print(f"{name}: {job.label}, step {line.get('step', 0)}, {job.config.folder}{where}")
        if name == record.FAILED:
            print(line.get("traceback", "").rstrip())
    return 0 if all(name in record.FINISHED for name in states) else 1


def look(jobs: Sequence[Job]) -> tuple[list[str], dict[str, str]]:
    """The state of every run, and what Slurm says of those that it has."""
    waiting = queued(Path(jobs[0].config.values["results_dir"]))
    states = [state(job.config) for job in jobs]
    for place, job in enumerate(jobs):
        if job.config.key in waiting and states[place] not in (*record.FINISHED, RUNNING):
            states[place] = QUEUED
    return states, waiting


def _watch(jobs: Sequence[Job]) -> None:
    """A line with the counts whenever they change, until there is nothing to wait for."""
    before = None
    while True:
        states, _ = look(jobs)
        counts = ", ".join(" ".join(line.split()) for line in _counts(states))
        if counts != before:
            print(f"{time.strftime('%H:%M:%S')} {counts}", flush=True)
            before = counts
        if not {RUNNING, QUEUED} & set(states) and set(states) != {MISSING}:
            return
        time.sleep(WATCH_SECONDS)


def _counts(states: Sequence[str]) -> list[str]:
    return [f"{name:<18}{count:>6}" for name, count in sorted(Counter(states).items())]


if __name__ == "__main__":
    sys.exit(main())
