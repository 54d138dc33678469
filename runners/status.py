"""Where the runs of an experiment stand.

    python -m runners.status experiment=E scale=S [key=value ...]

One line a state, then the runs that are not finished; a failed one with its traceback. The exit
code is 0 when every run is finished, else 1.
"""

import sys
from collections import Counter

from runners import record
from runners.config import ConfigError
from runners.sweep import plan, state


def main(arguments: list[str] | None = None) -> int:
    overrides = sys.argv[1:] if arguments is None else arguments
    if any(a in ("-h", "--help") for a in overrides):
        print((__doc__ or "").strip())
        return 0
    try:
        jobs = plan([o for o in overrides if o not in ("-m", "--multirun")])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    states = [state(job.config) for job in jobs]
    for name, count in sorted(Counter(states).items()):
        print(f"{name:<12}{count:>6}")
    for job, name in zip(jobs, states, strict=True):
        if name in record.FINISHED:
            continue
        line = record.read_last_line(job.config.folder) or {}
        print(f"{name}: {job.config.label}, step {line.get('step', 0)}, {job.config.folder}")
        if name == record.FAILED:
            print(line.get("traceback", "").rstrip())
    return 0 if all(name in record.FINISHED for name in states) else 1


if __name__ == "__main__":
    sys.exit(main())
