"""Upload the offline W&B sessions of many runs, several at a time.

    python -m runners.sync [experiment=E scale=S] [key=value ...] [at_once=N]

Without an experiment or a task: all runs in results_dir. `wandb sync` does the work and marks what
it has uploaded, so the same command goes on where it was stopped; the sessions of a run that went
on after a stop become one W&B run. Runs that are still at work are left for the next time. The exit
code is 0 when nothing is left.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runners.command import command
from runners.config import ConfigError, parse
from runners.lease import is_held
from runners.plan import plan

AT_ONCE = 8
NAMED = 5  # of the sessions that were not uploaded
BATCH = 200  # sessions a call of wandb: its command line has an end, and progress is told between


@command
def main(arguments: list[str]) -> int:
    folders, at_once = _runs(arguments)
    busy = [folder for folder in folders if is_held(folder)]
    sessions = [s for folder in folders if folder not in busy for s in unsynced(folder)]
    print(
        f"{len(folders)} runs, {len(sessions)} sessions to upload, {len(busy)} runs still at work"
    )
    left = upload(sessions, at_once)
    for session in left[:NAMED]:
        print(f"not uploaded: {session}", file=sys.stderr)
    if len(left) > NAMED:
        print(f"not uploaded: {len(left) - NAMED} more", file=sys.stderr)
    print(f"{len(sessions) - len(left)} uploaded, {len(left)} left")
    return 1 if left or busy else 0


def unsynced(folder: Path) -> list[Path]:
    """The sessions of a run that `wandb sync` has not marked, the oldest first."""
    sessions = sorted((folder / "wandb").glob("offline-run-*"))
    return [s for s in sessions if any(s.glob("*.wandb")) and not any(s.glob("*.wandb.synced"))]


def upload(sessions: Sequence[Path], at_once: int) -> list[Path]:
    """Hand ``sessions`` to `wandb sync`; returns those that it did not upload."""
    left = []
    for start in range(0, len(sessions), BATCH):
        batch = sessions[start : start + BATCH]
        command = [sys.executable, "-m", "wandb", "sync", "--yes", "-n", str(at_once), *batch]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        failed = [s for s in batch if not any(s.glob("*.wandb.synced"))]
        left += failed
        print(f"{start + len(batch) - len(left)} of {len(sessions)} uploaded", flush=True)
        if done.returncode != 0:  # of the lines that W&B writes, the last one says why
            print((done.stderr.strip() or "wandb sync failed").splitlines()[-1], file=sys.stderr)
        if done.returncode != 0 and len(failed) == len(batch):  # no server, no key
            return left + list(sessions[start + BATCH :])
    return left


def _runs(arguments: Sequence[str]) -> tuple[list[Path], int]:
    at_once, overrides = AT_ONCE, []
    for text, override in zip(arguments, parse(arguments), strict=True):
        if override.key_or_group != "at_once":
            overrides.append(text)
            continue
        at_once = override.value()
        if not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1:
            raise ConfigError(f"{text}: a whole number >= 1 expected")
    if any(not text.startswith("results_dir=") for text in overrides):
        folders = [job.config.folder for job in plan(overrides)]
        if not any(folder.is_dir() for folder in folders):
            raise ConfigError(f"{' '.join(overrides)}: none of its runs, {len(folders)} in all, is in "
                              f"{folders[0].parent}")  # fmt: skip
        return folders, at_once
    folder = Path(plan(overrides)[0].config.values["results_dir"]) / "runs"
    if not folder.is_dir():
        raise ConfigError(f"results_dir={folder.parent}: no folder runs in it")
    return sorted(path for path in folder.iterdir() if path.is_dir()), at_once


if __name__ == "__main__":
    sys.exit(main())
