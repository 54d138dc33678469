"""Figures drawn from the committed measurements can be read, and their tables are explained."""

import importlib

import pandas as pd
import pytest

from runners.config import ROOT, ConfigError, experiment_values
from scripts.figures import style

# At the paper scale most take long to tabulate, and look as they do at the quick one.
COMMITTED = sorted(
    path.parts[-3:-1]
    for path in (ROOT / "results").glob("*/*/tidy.parquet")
    if path.parts[-2] == "quick" or path.parts[-3:-1] == ("bounded_update", "paper")
)


@pytest.mark.parametrize(("experiment", "scale"), COMMITTED)
def test_no_text_lies_on_another(experiment: str, scale: str) -> None:
    tidy = pd.read_parquet(ROOT / "results" / experiment / scale / "tidy.parquet")
    analysis = importlib.import_module(f"scripts.figures.{experiment}")
    config = analysis.config(experiment_values([f"experiment={experiment}", f"scale={scale}"]))
    tables = analysis.tables(tidy, config)
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
