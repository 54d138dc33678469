"""Faults planted in the runs of an experiment are named in its report."""

import json
import shutil
from pathlib import Path

import pytest

from runners import record
from runners.config import ConfigError
from runners.plan import plan
from runners.sweep import sweep
from scripts import report
from scripts.figures import __main__ as figures

EXPERIMENT = "uv_plane"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Results of a small experiment, with nothing wrong."""
    folder = tmp_path_factory.mktemp("whole")
    assert sweep([f"experiment={EXPERIMENT}", *overrides(folder), "hydra/launcher=basic"]) == 0
    figures.make(EXPERIMENT, overrides(folder))
    return folder


@pytest.fixture
def results(whole, tmp_path, monkeypatch) -> Path:
    """A copy to plant a fault in; the report shows what it else leaves out, the smallest scale."""
    monkeypatch.setattr(report, "SCALES", ("smoke",))
    shutil.copytree(whole, tmp_path / "results")
    return tmp_path / "results"


def overrides(folder: Path) -> list[str]:
    return ["scale=smoke", f"results_dir={folder}", "tracking=disabled"]


def records(results: Path) -> list[Path]:
    """The record of each run, in the order of the plan."""
    jobs = plan([f"experiment={EXPERIMENT}", *overrides(results)])
    return [job.config.folder / record.FILE_NAME for job in jobs]


def rewrite(path: Path, change) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def pages(results: Path) -> list[str]:
    report.write(results)
    return [(results / name).read_text() for name in ("REPORT.md", "index.html")]


def test_nothing_wrong_nothing_named(results) -> None:
    figures.make(EXPERIMENT, overrides(results))
    for page in pages(results):
        assert EXPERIMENT in page and "⚠" not in page and "Withheld" not in page


def test_a_removed_run_takes_the_verdicts_back_and_no_file_away(results, capsys) -> None:
    gone = records(results)[3].parent
    shutil.rmtree(gone)
    before = (results / EXPERIMENT / "smoke" / "uv_plane.csv").exists()
    assert figures.main([EXPERIMENT, *overrides(results)]) == 2
    assert (
        f"1 of 24 runs not finished: deep_fc laprop lr=0.0001 u=0.5 v=0.99 ({gone.name})"
        in capsys.readouterr().err
    )
    for page in pages(results):
        assert "Withheld: 1 of 24 runs not finished" in page and gone.name in page
    assert (results / EXPERIMENT / "smoke" / "uv_plane.csv").exists() == before


def test_a_clone_without_any_run_keeps_its_results(results) -> None:
    shutil.rmtree(results / "runs")
    with pytest.raises(ConfigError, match="24 of 24 runs not finished"):
        figures.make(EXPERIMENT, overrides(results))
    assert all("Withheld" not in page for page in pages(results))


def test_results_that_were_made_elsewhere_stay_where_some_runs_are_done_here(results) -> None:
    figures.make(EXPERIMENT, overrides(results))
    (results / EXPERIMENT / "smoke" / figures.MADE_HERE).unlink()  # as in a clone
    shutil.rmtree(records(results)[3].parent)
    before = {page: page.read_bytes() for page in (results / EXPERIMENT / "smoke").iterdir()}
    with pytest.raises(ConfigError, match="1 of 24 runs not finished"):
        figures.make(EXPERIMENT, overrides(results))
    assert before == {page: page.read_bytes() for page in before}


def test_a_duplicated_seed(results) -> None:
    first, second = records(results)[:2]
    shutil.copy(first, second)
    with pytest.raises(ConfigError, match="duplicated seeds: seed 0 of laprop"):
        figures.make(EXPERIMENT, overrides(results))
    for page in pages(results):
        assert "Withheld: duplicated seeds: seed 0 of laprop" in page


def test_mixed_code_is_flagged(results) -> None:
    rewrite(records(results)[0], lambda lines: lines[0]["code"].update(digest="0123456789abcdef"))
    figures.make(EXPERIMENT, overrides(results))
    for page in pages(results):
        assert "uns of different code versions: commit " in page and "0123456789abcdef" in page


def test_a_metric_that_is_no_number_is_named(results) -> None:
    def lose(lines) -> None:
        lines[-2]["loss"][1] = None

    rewrite(records(results)[0], lose)
    figures.make(EXPERIMENT, overrides(results))
    key = records(results)[0].parent.name
    for page in pages(results):
        assert f"loss of laprop, seed 1, step 30 (run {key})" in page


def test_a_damaged_line_is_named(results) -> None:
    path = records(results)[0]
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first + "{broken\n" + "".join(rest))
    with pytest.raises(ConfigError, match="records with unreadable lines: .*; a run without"):
        figures.make(EXPERIMENT, overrides(results))
    for page in pages(results):
        assert f"Withheld: records with unreadable lines: {path.parent.name} (line 2)" in page


def test_more_trials_for_one_optimizer_are_refused(results, monkeypatch) -> None:
    def fewer_for_adam(whole):
        jobs = plan(whole)
        return [job for job in jobs
                if not (job.config.names["optimizer"] == "adam"
                        and job.config.values["optimizer"]["lr"] == 1e-4)]  # fmt: skip

    monkeypatch.setattr(figures, "plan", fewer_for_adam)
    figures.make(EXPERIMENT, overrides(results))
    for page in pages(results):
        assert "No ranking: the trials differ: laprop 3, adam 2" in page


@pytest.mark.parametrize("name", ["figure.png", "plane.csv", "tidy.parquet", "README.md"])
def test_a_file_that_is_gone_is_made_again(results, name) -> None:
    folder, _ = figures.make(EXPERIMENT, overrides(results))
    before = (folder / name).read_bytes()
    (folder / name).unlink()
    figures.make(EXPERIMENT, overrides(results))
    assert (folder / name).read_bytes() == before


def test_what_is_up_to_date_is_left_alone(results) -> None:
    folder, verdicts = figures.make(EXPERIMENT, overrides(results))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = figures.make(EXPERIMENT, overrides(results))
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert [v.sentence for v in again[1]] == [v.sentence for v in verdicts]
