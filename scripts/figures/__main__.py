"""Tables, figure and verdicts of one experiment, from its finished records.

    python -m scripts.figures E [scale=S] [results_dir=DIR]

Writes ``<results_dir>/<E>/<scale>/``: tidy.parquet, the small tables as CSV, claims.csv,
figure.png, figure.pdf and a README; then ``<results_dir>/REPORT.md`` over all experiments. Code
that is particular to an experiment is the module of its name beside this file, with

    config(values) -> config                 what it needs of the experiment's configuration
    tables(tidy, config) -> {name: DataFrame}
    verdicts(tidy, tables, config) -> [Verdict]
    draw(tidy, tables, config) -> Figure
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from runners import record
from runners.collect import collect, to_parquet, write_atomically
from runners.config import MANNER, ConfigError, check_option, experiment_values, parse
from runners.sweep import Job, plan
from scripts import judging, report
from scripts.figures import style


def make(experiment: str, overrides: Sequence[str]) -> tuple[Path, list[judging.Verdict]]:
    """Collect, tabulate, judge and draw ``experiment``; returns the folder and the verdicts."""
    check_option("experiment", experiment)
    whole = [f"experiment={experiment}", *overrides]
    jobs = plan(whole)
    values = experiment_values(whole)
    tidy = collect(jobs, experiment, whole)
    analysis = importlib.import_module(f"scripts.figures.{experiment}")
    config = analysis.config(values)
    tables: dict[str, pd.DataFrame] = analysis.tables(tidy, config)
    verdicts: list[judging.Verdict] = analysis.verdicts(tidy, tables, config)
    figure = analysis.draw(tidy, tables, config)

    # Narrowed or changed, it is another experiment, and must not take the place of the real one.
    changes = [text for text in overrides if parse([text])[0].key_or_group not in MANNER]
    name = values["scale"] + ("-changed" if changes else "")
    folder = Path(values["results_dir"]) / experiment / name
    write_atomically(folder / "tidy.parquet", to_parquet(tidy))
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "claims.csv", judging.to_frame(verdicts).to_csv(index=False).encode())
    style.save(figure, folder)
    command = " ".join([f"scale={values['scale']}", f"experiments={experiment}", *changes])
    readme = _readme(experiment, values["scale"], command, jobs, verdicts)
    write_atomically(folder / "README.md", readme.encode())
    report.write(Path(values["results_dir"]))
    return folder, verdicts


def _readme(
    experiment: str, scale: str, command: str, jobs: Sequence[Job],
    verdicts: Sequence[judging.Verdict],
) -> str:  # fmt: skip
    origins = [_origin(job) for job in jobs]
    versions = sorted(
        {f"commit {o['code']['commit']}, digest {o['code']['digest']}" for o in origins}
    )
    packages = sorted({", ".join(f"{k} {v}" for k, v in o["packages"].items()) for o in origins})
    machines = sorted({_machine(o["hardware"]) for o in origins})
    mixed = (
        "" if len(versions) == 1 else "\n**Results of different code versions are mixed here.**\n"
    )
    return f"""# {experiment}, scale {scale}

![figure](figure.png)

    python -m scripts.reproduce {command}

{judging.to_markdown(verdicts).strip()}
{mixed}
- Runs: {len(jobs)}
- Code: {"; ".join(versions)}
- Packages: {"; ".join(packages)}
- Hardware: {"; ".join(machines)}
- Tables: `tidy.parquet` (one row a measured value), and what the figure shows as CSV.
"""


def _origin(job: Job) -> dict[str, Any]:
    found = record.read_record(job.config.folder)
    assert found is not None, job.config.folder  # collect has just read it
    return found.provenance


def _machine(hardware: dict[str, Any]) -> str:
    device = hardware.get("gpu") or hardware["device"]
    return f"{hardware['machine']}, {hardware['cores']} cores, {device}"


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if arguments else 2
    try:
        folder, verdicts = make(arguments[0].removeprefix("experiment="), arguments[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(judging.to_text(verdicts))
    print(f"\n{folder / 'figure.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
