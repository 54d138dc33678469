"""What is drawn from committed measurements is what the runs gave."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from runners.config import ROOT
from scripts import redraw

FOLDER = Path("adam_divergence/quick")


@pytest.fixture
def results(tmp_path):
    shutil.copytree(ROOT / "results" / FOLDER, tmp_path / FOLDER)
    return tmp_path


def test_measurements_alone_give_the_same_tables_and_verdicts(results) -> None:
    made = [path for path in (results / FOLDER).iterdir()
            if path.suffix in (".csv", ".md", ".png")]  # fmt: skip
    before = {path.name: path.read_bytes() for path in made}
    assert {"claims.csv", "left.csv", "README.md", "figure.png"} <= set(before)
    for path in made:
        path.unlink()
    assert redraw.main([str(FOLDER), f"results_dir={results}"]) == 0
    after = {path.name: path.read_bytes() for path in made}
    del before["figure.png"], after["figure.png"]  # fonts differ between machines
    assert after == before
    assert (results / "REPORT.md").exists()


def test_an_added_optimizer_is_drawn_and_moves_no_verdict(tmp_path) -> None:
    """One that trains deeper than all others, with another grid of learning rates."""
    real, folder = ROOT / "results/deep_fc_depth/quick", tmp_path / "deep_fc_depth/quick+sgd"
    folder.mkdir(parents=True)
    tidy = pd.read_parquet(real / "tidy.parquet")
    mine = tidy[(tidy.optimizer == "laprop") & (tidy.lr < tidy.lr.max())].assign(optimizer="sgd")
    mine["run"], mine["momentum"] = "m" + mine.run.astype(str), 0.9
    mine.loc[mine.metric == "loss", "value"] /= 10
    both = pd.concat([tidy.astype({"optimizer": str, "run": str}), mine], ignore_index=True)
    both.astype({"optimizer": "category"}).to_parquet(folder / "tidy.parquet")
    about = json.loads((real / "provenance.json").read_text())
    about["command"] += " optimizers=+sgd"
    (folder / "provenance.json").write_text(json.dumps(about))
    assert redraw.main(["deep_fc_depth/quick+sgd", f"results_dir={tmp_path}"]) == 0
    assert (folder / "claims.csv").read_bytes() == (real / "claims.csv").read_bytes()
    assert "sgd" in set(pd.read_csv(folder / "greatest.csv").optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["uv_plain/quick"], "uv_plain/quick: unknown experiment; did you mean uv_plane?"),
        (["uv_plane"], "uv_plane: EXPERIMENT/SCALE expected"),
        (
            ["uv_plane/paper"],
            "uv_plane/paper/provenance.json: not there; python -m scripts.figures",
        ),
        ([], "EXPERIMENT/SCALE expected"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(results, arguments, message, capsys) -> None:
    before = sorted(results.rglob("*"))
    assert redraw.main([*arguments, f"results_dir={results}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert sorted(results.rglob("*")) == before


def test_what_was_written_by_hand_stays(results, capsys) -> None:
    (results / FOLDER / "README.md").write_text("# mine\n")
    assert redraw.main([str(FOLDER), f"results_dir={results}"]) == 2
    assert "README.md: written by hand" in capsys.readouterr().err
    assert (results / FOLDER / "README.md").read_text() == "# mine\n"


def test_results_without_their_measurements_stay_as_they_are(results, capsys) -> None:
    (results / FOLDER / "tidy.parquet").unlink()
    before = (results / FOLDER / "README.md").read_bytes()
    assert redraw.main([str(FOLDER), f"results_dir={results}"]) == 2
    assert "tidy.parquet: not there" in capsys.readouterr().err
    assert (results / FOLDER / "README.md").read_bytes() == before
