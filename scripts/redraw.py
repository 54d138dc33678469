"""Figure, tables and verdicts of results anew, from their measurements and without their runs.

    python -m scripts.redraw EXPERIMENT/SCALE ... [results_dir=DIR]

Reads ``<results_dir>/<EXPERIMENT>/<SCALE>/tidy.parquet`` and makes what lies beside it, then the
report: for whoever changes a figure or a claim, or wants figures of results whose records are
elsewhere. What the runs were and how they were made stays as ``provenance.json`` has it.
"""

import importlib
import shlex
import sys
from pathlib import Path

import pandas as pd

from runners.command import command, print_help
from runners.config import ConfigError, added, all_experiments, experiment_values, hint
from scripts import provenance, report
from scripts.figures.__main__ import verdicts_of, write


def redraw(experiment: str, folder: Path) -> None:
    """Make all of ``folder`` that follows from its measurements; raises ConfigError."""
    about, path = provenance.read(folder), folder / "tidy.parquet"
    if not about or not path.exists():
        missing = path if about else folder / provenance.FILE_NAME
        raise ConfigError(
            f"{missing}: not there; python -m scripts.figures {experiment} makes it from the runs"
        )
    if provenance.by_hand(folder):
        raise ConfigError(f"{folder / 'README.md'}: written by hand, and so is what lies beside it")
    overrides = [
        text for text in shlex.split(about["command"]) if not text.startswith("experiments=")
    ]
    values = experiment_values([f"experiment={experiment}", *overrides])
    tidy = pd.read_parquet(path)
    analysis = importlib.import_module(f"scripts.figures.{experiment}")
    config = analysis.config(values)
    tables = analysis.tables(tidy, config)
    verdicts = verdicts_of(analysis, tidy, tables, config, added(overrides))
    # what needs more than the measurements (pictures that the runs made) fails before it writes
    write(folder, about, tables, verdicts, analysis.draw(tidy, tables, config))


@command
def main(arguments: list[str]) -> int:
    if not arguments:
        print_help(main)
        return 2
    results = Path("results")
    places = []
    for argument in arguments:
        if argument.startswith("results_dir="):
            results = Path(argument.partition("=")[2])
            continue
        experiment, slash, scale = argument.strip("/").partition("/")
        if experiment not in all_experiments():
            raise ConfigError(
                f"{argument}: unknown experiment{hint(experiment, all_experiments())}"
            )
        if not slash:
            raise ConfigError(f"{argument}: EXPERIMENT/SCALE expected, as {experiment}/quick")
        places.append((experiment, scale))
    if not places:
        raise ConfigError("EXPERIMENT/SCALE expected, as rosenbrock_noise/quick")
    for experiment, scale in places:
        redraw(experiment, results / experiment / scale)
        print(results / experiment / scale / "figure.png", flush=True)
    report.write(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
