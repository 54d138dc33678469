"""From the committed measurements follow the committed tables and verdicts, and figures that can be
read; the tables are explained."""

import functools
import importlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from runners.config import ROOT, ConfigError, experiment_values
from scripts import judging
from scripts.figures import style

# At the paper scale most take long to tabulate, and look as they do at the quick one.
COMMITTED = sorted(
    path.parts[-3:-1]
    for path in (ROOT / "results").glob("*/*/tidy.parquet")
    if path.parts[-2] == "quick" or path.parts[-3:-1] == ("bounded_update", "paper")
)


@functools.cache
def made(experiment: str, scale: str) -> tuple[Any, ...]:
    """The analysis of an experiment, and what it makes of the committed measurements."""
    tidy = pd.read_parquet(ROOT / "results" / experiment / scale / "tidy.parquet")
    analysis = importlib.import_module(f"scripts.figures.{experiment}")
    config = analysis.config(experiment_values([f"experiment={experiment}", f"scale={scale}"]))
    return analysis, tidy, config, analysis.tables(tidy, config)


def read_back(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """As it would be read from where it is written."""
    frame.to_csv(folder / "table.csv", index=False)
    return pd.read_csv(folder / "table.csv")


@pytest.mark.parametrize(("experiment", "scale"), COMMITTED)
def test_tables_and_verdicts_are_those_of_the_measurements(
    experiment: str, scale: str, tmp_path: Path
) -> None:
    analysis, tidy, config, tables = made(experiment, scale)
    verdicts = judging.to_frame(analysis.verdicts(tidy, tables, config))
    for name, frame in {**tables, "claims": verdicts}.items():
        committed = pd.read_csv(ROOT / "results" / experiment / scale / f"{name}.csv")
        again = read_back(frame, tmp_path)
        # sums may be added up in another order on another machine
        pd.testing.assert_frame_equal(again, committed, rtol=1e-9, obj=name)


@pytest.mark.parametrize(("experiment", "scale"), COMMITTED)
def test_no_text_lies_on_another(experiment: str, scale: str) -> None:
    analysis, tidy, config, tables = made(experiment, scale)
    try:
        fig = analysis.draw(tidy, tables, config)
    except ConfigError as error:  # the figures of style transfer show pictures that the runs made
        pytest.skip(f"not without the runs: {error}")
    assert style.clashes(fig) == []


def test_there_are_committed_figures() -> None:
    assert {scale for _, scale in COMMITTED} == {"quick", "paper"}


def test_every_column_of_the_tables_is_explained() -> None:
    told = (ROOT / "results" / "README.md").read_text()
    tables = [path for path in (ROOT / "results").glob("*/*/*.csv")
              if path.parts[-2] in ("quick", "paper", "authors", "cpu")]  # fmt: skip
    columns = {column.removesuffix("_low").removesuffix("_high")
               for path in tables for column in pd.read_csv(path, nrows=0).columns}  # fmt: skip
    assert len(columns) > 50
    assert [name for name in sorted(columns) if f"`{name}`" not in told] == []
