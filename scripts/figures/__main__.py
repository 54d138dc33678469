"""Tables, figure and verdicts of one experiment, from its finished records.

    python -m scripts.figures E [scale=S] [results_dir=DIR]

Writes ``<results_dir>/<E>/<scale>/``: tidy.parquet, the small tables as CSV, claims.csv,
figure.png, .pdf and .svg, provenance.json and a README; then the report over all experiments
(scripts/report.py). Code that is particular to an experiment is the module of its name beside this file, with

    config(values) -> config                 what it needs of the experiment's configuration
    tables(tidy, config) -> {name: DataFrame}
    verdicts(tidy, tables, config) -> [Verdict]
    draw(tidy, tables, config) -> Figure
"""

import hashlib
import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from runners import record
from runners.collect import read_all, tidy_table, to_parquet, write_if_changed
from runners.command import command, print_help
from runners.config import (
    ADDED,
    MANNER,
    ROOT,
    ConfigError,
    added,
    all_experiments,
    experiment_values,
    folder_name,
    hint,
    parse,
)
from runners.plan import Job, plan
from scripts import faults, judging, provenance, report
from scripts.figures import style
from scripts.figures.training import pick

MADE_HERE = ".made_here"  # beside results whose runs are here as well; not committed
SCRIPTS, REFERENCE = ROOT / "scripts", ROOT / "results" / "reference"


def make(experiment: str, overrides: Sequence[str]) -> tuple[Path, list[judging.Verdict]]:
    """Collect, tabulate, judge and draw ``experiment``; returns the folder and the verdicts.

    What is up to date is left as it is. Raises ConfigError where runs are not finished. Results
    from before stay; where they were made here, of runs that are gone now, they say so from now on.
    """
    whole = [f"experiment={experiment}", *overrides]
    jobs = plan(whole)
    values = experiment_values(whole)
    # Narrowed or changed, it is another experiment, and must not take the place of the real one.
    changes = [text for text in overrides if parse([text])[0].key_or_group not in MANNER]
    more = added(overrides)
    changed = any(parse([text])[0].key_or_group != ADDED for text in changes)
    name = folder_name(values["scale"], more) + ("-changed" if changed else "")
    folder = Path(values["results_dir"]) / experiment / name
    made_from = _digest(experiment, jobs)
    before = provenance.read(folder)
    if before.get("made_from") == made_from and provenance.all_there(folder, before):
        return folder, judging.from_frame(pd.read_csv(folder / "claims.csv"))

    records = read_all(jobs)
    found = [r for r in records if r is not None]
    if missing := faults.unfinished(jobs, records):
        if found and (folder / MADE_HERE).exists():  # not for want of runs that were made elsewhere
            provenance.withhold(folder, missing)
        raise ConfigError(
            f"{missing[0]}; run the sweep first: python -m runners.run -m {shlex.join(whole)}"
        )
    tidy = tidy_table(found, experiment)
    command = shlex.join([f"scale={values['scale']}", f"experiments={experiment}", *changes])
    about = provenance.gather(experiment, values, found, tidy, command) | {"made_from": made_from}
    if about["withheld"]:
        provenance.withhold(folder, about["withheld"])
        raise ConfigError("; ".join(about["withheld"]))
    analysis = importlib.import_module(f"scripts.figures.{experiment}")
    config = analysis.config(values)
    try:
        tables: dict[str, pd.DataFrame] = analysis.tables(tidy, config)
        verdicts = verdicts_of(analysis, tidy, tables, config, more)
        figure = analysis.draw(tidy, tables, config)
    except (KeyError, ValueError) as error:
        narrowed = len(jobs) < len(plan([text for text in whole if text not in changes]))
        if not narrowed:  # no reason for it
            raise
        raise ConfigError(
            f"{experiment}: {' '.join(changes)}: too little of its sweep is left for its figure "
            f"({type(error).__name__}: {error}); its runs are done, and `python -m runners.collect` "
            "gathers them"
        ) from error

    if changed and before.get("command", command) != command:
        print(f"{folder}: takes the place of the results of {before['command']}", file=sys.stderr)
    provenance.write(folder, about | {"made_from": ""})  # not up to date before all is there
    write_if_changed(folder / "tidy.parquet", to_parquet(tidy))
    files = write(folder, about, tables, verdicts, figure)
    provenance.write(folder, about | {"files": ["tidy.parquet", *files]})
    (folder / MADE_HERE).touch()
    return folder, verdicts


def write(
    folder: Path, about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame],
    verdicts: Sequence[judging.Verdict], figure: Figure,
) -> list[str]:  # fmt: skip
    """All of ``folder`` that follows from its measurements; returns the names of the files."""
    frames = {f"{name}.csv": table for name, table in tables.items()}
    frames["claims.csv"] = judging.to_frame(verdicts)
    for name, frame in frames.items():
        write_if_changed(folder / name, frame.to_csv(index=False).encode())
    drawn = style.save(figure, folder)
    write_if_changed(folder / "README.md", _readme(about, verdicts).encode())
    return [*frames, *(path.name for path in drawn), "README.md"]


def verdicts_of(
    analysis: Any, tidy: pd.DataFrame, tables: dict[str, pd.DataFrame], config: Any,
    more: Sequence[str],
) -> list[judging.Verdict]:  # fmt: skip
    """The verdicts without the optimizers that were added (``more``): they are drawn and ranked,
    but no claim speaks of them, so that each verdict is the same as without them."""
    if more:
        tidy = pick(tidy, ~tidy.optimizer.isin(more)).dropna(axis="columns", how="all")
        for name in tidy.select_dtypes("category"):
            tidy[name] = tidy[name].cat.remove_unused_categories()
        tables = analysis.tables(tidy, config)
    return analysis.verdicts(tidy, tables, config)


def results_dir(experiment: str, overrides: Sequence[str]) -> Path:
    return Path(experiment_values([f"experiment={experiment}", *overrides])["results_dir"])


def _digest(experiment: str, jobs: Sequence[Job]) -> str:
    """Of everything that the results are made from: the records, what reads, tabulates and draws them,
    its configuration, published numbers."""
    digest = hashlib.sha256()
    folders = (SCRIPTS, ROOT / "tasks")  # of which analyses take constants and pictures
    sources = [p for folder in folders for p in sorted(folder.rglob("*.py"))
               if not p.name.endswith("_test.py")]  # fmt: skip
    sources += [ROOT / "runners" / f"{name}.py" for name in ("collect", "record")]
    sources.append(ROOT / "conf" / "experiment" / f"{experiment}.yaml")
    for path in [*sources, *sorted(REFERENCE.glob("*.csv"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for job in jobs:
        path = job.config.folder / record.FILE_NAME
        digest.update(job.config.key.encode())
        digest.update(path.read_bytes() if path.exists() else b"missing")
    return digest.hexdigest()[:16]


def _readme(about: Mapping[str, Any], verdicts: Sequence[judging.Verdict]) -> str:
    noticed = "".join(f"\n**Noticed: {text}.**\n" for text in about["noticed"])
    return f"""# {about["experiment"]}, scale {about["scale"]}

![figure](figure.png)

    python -m scripts.reproduce {about["command"]}

{judging.to_markdown(verdicts).strip()}

{judging.N_COUNTS} {judging.P_MEANS}
{noticed}
{provenance.to_markdown(about)}- Tables: `tidy.parquet` (one row a measured value), and what the figure shows as CSV; their columns
  are explained in `results/README.md`.
"""


@command
def main(arguments: list[str]) -> int:
    if not arguments:
        print_help(main)
        return 2
    experiment, overrides = arguments[0].removeprefix("experiment="), arguments[1:]
    if experiment not in all_experiments():
        raise ConfigError(
            f"experiment={experiment}: unknown experiment{hint(experiment, all_experiments())}"
        )
    try:
        folder, verdicts = make(experiment, overrides)
    except ConfigError:
        where = results_dir(experiment, overrides)
        if where.is_dir():  # its results may have lost their basis
            report.write(where)
        raise
    report.write(results_dir(experiment, overrides))
    print(judging.to_text(verdicts))
    print(f"\n{folder / 'figure.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
