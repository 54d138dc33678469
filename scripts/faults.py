"""What is wrong with the runs behind a figure, in words for its readers.

Some faults leave no basis for a verdict: it is withheld. Others leave one that a reader must know
of. Unequal chances of optimizers are the fairness gate's (`scripts/fairness.py`).
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from runners.config import IDENTITY
from runners.plan import Job
from runners.record import Record

NAMED = 3  # so many cases of a fault are named, the others counted


def unfinished(jobs: Sequence[Job], records: Sequence[Record | None]) -> list[str]:
    """Runs that are missing or did not end, as one fault."""
    missing = [f"{job.label} ({job.config.key})"
               for job, found in zip(jobs, records, strict=True) if found is None]  # fmt: skip
    return [f"{len(missing)} of {len(jobs)} runs not finished: {_some(missing)}"] if missing else []


def duplicated(records: Sequence[Record]) -> list[str]:
    """Replicas that occur twice under the same settings: they would count as two seeds."""
    seen: set[str] = set()
    twice = []
    for found in records:
        values, names = found.provenance["values"], found.provenance["names"]
        settings = {name: values.get(name) for name in IDENTITY if name not in ("seed", "seeds")}
        for replica in found.provenance["replicas"]:
            identity = json.dumps([settings, names, replica], sort_keys=True)
            if identity in seen:
                twice.append(f"seed {replica['seed']} of {names['optimizer']} "
                             f"(run {found.provenance['key']})")  # fmt: skip
            seen.add(identity)
    return [f"duplicated seeds: {_some(twice)}"] if twice else []


def damaged(records: Sequence[Record]) -> list[str]:
    """Records with lines that cannot be read: what stood there may have been the end."""
    broken = [f"{found.provenance['key']} (line {found.damaged[0]})" for found in records
              if found.damaged]  # fmt: skip
    told = f"records with unreadable lines: {_some(broken)}; a run without its folder is done again"
    return [told] if broken else []


def mixed_code(records: Sequence[Record]) -> list[str]:
    """Runs of one figure made by different versions of the code."""
    versions = versions_of(records)
    return [f"runs of different code versions: {'; '.join(versions)}"] if len(versions) > 1 else []


def versions_of(records: Iterable[Record]) -> list[str]:
    codes = [found.provenance["code"] for found in records]
    return sorted({f"commit {code['commit']}, digest {code['digest']}" for code in codes})


def no_numbers(tidy: pd.DataFrame) -> list[str]:
    """Metrics that were a number and then are none, though their replica did not diverge.

    One that has not been a number yet (a window that has not filled, a target not reached) is none
    legitimately.
    """
    diverged = tidy.loc[tidy.metric == "diverged_at", ["run", "replica"]].drop_duplicates()
    ends = pd.MultiIndex.from_frame(diverged)
    rows: Any = tidy[["run", "optimizer", "replica", "seed", "metric", "step", "value"]]
    rows = rows.sort_values("step")
    known = rows.value.notna().groupby([rows.run, rows.replica, rows.metric], observed=True)
    lost = rows[known.cummax() & rows.value.isna()]
    lost = lost[~pd.MultiIndex.from_frame(lost[["run", "replica"]]).isin(ends)]
    told = [f"{row.metric} of {row.optimizer}, seed {row.seed}, step {row.step} (run {row.run})"
            for row in lost.itertuples()]  # fmt: skip
    return [f"no number (NaN) in a run that did not diverge: {_some(told)}"] if told else []


def _some(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
    return ", ".join(cases[:NAMED]) + more
