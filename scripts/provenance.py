"""What the results of an experiment rest on: ``provenance.json`` beside its tables.

Keys: experiment, scale, command, runs, report_seeds and tuning_seeds (how many), steps, stand_ins,
code, packages, hardware, train_seconds (of all its runs together), settings (the experiment as
configured, for people), files (that were made), noticed (faults that a reader
must know of), withheld (faults that leave no basis for a verdict), made_from (a digest of records
and code: equal means up to date).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from runners.collect import write_if_changed
from runners.config import ConfigError
from runners.record import Record
from scripts import faults
from scripts.stand_ins import stand_ins

FILE_NAME = "provenance.json"
# without these a report has nothing to say of where its numbers come from
TOLD = (
    "command", "runs", "report_seeds", "tuning_seeds", "stand_ins", "code", "packages", "hardware",
)  # fmt: skip


WHERE = ("results_dir", "data_dir", "tracking", "force", "checkpoint_every")  # decide no number


def gather(
    experiment: str,
    values: Mapping[str, Any],
    records: Sequence[Record],
    tidy: pd.DataFrame,
    command: str,
) -> dict[str, Any]:
    """What is known of the runs behind ``tidy``."""
    origins = [found.provenance for found in records]
    seeds = tidy.groupby("phase", observed=True).seed.nunique()
    return {
        "experiment": experiment,
        "scale": values["scale"],
        "command": command,
        "runs": len(records),
        "report_seeds": int(seeds.get("report", 0)),
        "tuning_seeds": int(seeds.get("tune", 0)),
        "steps": values["steps"],
        "stand_ins": stand_ins(values),
        "code": faults.versions_of(records),
        "packages": sorted({", ".join(f"{k} {v}" for k, v in o["packages"].items())
                            for o in origins}),
        "hardware": sorted({_machine(o["hardware"]) for o in origins}),
        "train_seconds": round(sum(found.rows[-1]["train_seconds"] for found in records
                                   if found.rows)),
        "settings": {k: v for k, v in values.items() if k not in ("scale", "steps", *WHERE)},
        "noticed": faults.mixed_code(records) + faults.no_numbers(tidy),
        "withheld": faults.duplicated(records) + faults.damaged(records),
    }  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    """What is said of the results in ``folder``; empty where nothing is.

    Raises ConfigError where it cannot be read.
    """
    path = folder / FILE_NAME
    unknown = "without it, results count as of unknown origin"
    try:
        about = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        raise ConfigError(f"{path}: not JSON; {unknown}") from None
    if not isinstance(about, dict):
        raise ConfigError(f"{path}: not a JSON object; {unknown}")
    return about


def write(folder: Path, about: Mapping[str, Any]) -> None:
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    write_if_changed(folder / FILE_NAME, text.encode())


def all_there(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether none of the files that were made is missing."""
    return "files" in about and all((folder / name).exists() for name in about["files"])


def by_hand(folder: Path) -> bool:
    """Whether the README of ``folder`` is none that a script wrote, so that what lies there is not, either."""
    path = folder / "README.md"
    return path.exists() and ", scale " not in path.read_text().partition("\n")[0]


def withhold(folder: Path, reasons: Sequence[str]) -> None:
    """Say of the results in ``folder`` why they are no basis for verdicts any more.

    Tables and figure stay: they were made when all was there. Where there are none, there is
    nothing to say it of.
    """
    if about := read(folder):
        write(folder, about | {"withheld": list(reasons), "made_from": ""})


def to_markdown(about: Mapping[str, Any]) -> str:
    """One list entry a fact."""
    rows = {
        "Runs": f"{about['runs']}, {about['report_seeds']} report seeds",
        "Stand-ins": "; ".join(about["stand_ins"]),
        "Code": "; ".join(about["code"]),
        "Packages": "; ".join(about["packages"]),
        "Hardware": "; ".join(about["hardware"]),
    }
    return "".join(f"- {name}: {text}\n" for name, text in rows.items() if text)


def _machine(hardware: Mapping[str, Any]) -> str:
    device = hardware.get("gpu") or hardware["device"]
    return f"{hardware['machine']}, {hardware['cores']} cores, {device}"
