import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from runners import collect, conftest, record
from runners.archive import update
from runners.config import ROOT
from runners.plan import plan
from runners.run import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six finished runs of two optimizers with different hyper-parameters, tuning seeds, packs."""
    folder = tmp_path_factory.mktemp("made")
    overrides = ["task=rosenbrock", "optimizer=adam,laprop,sgd", "optimizer.lr=1e-3,10",
                 "steps=40", "eval_every=10", "seeds=2", "tuning_seeds=1", "task.sigma=[0,0.1]",
                 "tracking=disabled", f"results_dir={folder}"]  # fmt: skip
    assert main(["-m", *overrides]) == 0
    return folder, overrides


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made[0] / "runs", tmp_path / "runs")
    return tmp_path


def table(folder):
    return pd.read_parquet(folder / "tidy.parquet")


def test_the_table_has_what_the_one_of_the_experiment_has(made, copy):
    found = update(copy)
    assert (found.finished, found.read, found.unfinished, found.damaged) == (6, 6, 0, {})
    mine, other = table(copy), conftest.collect(plan(made[1]), "none")
    assert set(mine.columns) == set(other.columns) and len(mine) == len(other) == found.values
    assert mine.metric.isin(["diverged_at"]).any() and mine.phase.nunique() == 2
    keys = ["run", "replica", "step", "metric"]
    mine, other = (
        t[sorted(t.columns)].astype({k: str for k in ("run", "metric")}).sort_values(keys)
        for t in (mine, other)
    )
    for name in mine.columns:
        left, right = mine[name].to_numpy(), other[name].to_numpy()
        if name in ("lr", "value", "sigma", "beta1", "beta2", "eps", "seed", "momentum"):
            np.testing.assert_array_equal(left.astype(float), right.astype(float), err_msg=name)
        else:
            # an optimizer without it: None here, NaN there
            sides = [["" if pd.isna(v) else str(v) for v in side] for side in (left, right)]
            assert sides[0] == sides[1], name


def test_the_settings_of_every_run_are_there_and_a_lost_table_comes_back(copy):
    update(copy)
    runs = pd.read_parquet(copy / "runs.parquet")
    for _, row in runs.iterrows():
        first = record.read_first_line(copy / "runs" / row.run)
        assert first is not None
        values = first["values"]
        assert (row["steps"], row["precision"]) == (40, "fp32") == (
            values["steps"], values["precision"])  # fmt: skip
        assert json.loads(row["task.sigma"]) == values["task"]["sigma"] == [0, 0.1]
        assert row["optimizer.lr"] == values["optimizer"]["lr"]
        assert row["optimizer"] == first["names"]["optimizer"]
    assert len(runs) == 6 and set(runs.run) == set(table(copy).run)
    assert runs["optimizer.betas"].isna().sum() == 2  # sgd's
    assert (
        str(runs["steps"].dtype) == "Int64" and str(runs["optimizer.nesterov"].dtype) == "boolean"
    )
    before = (copy / "runs.parquet").read_bytes()
    (copy / "runs.parquet").unlink()
    assert update(copy).read == 0 and (copy / "runs.parquet").read_bytes() == before


def test_a_number_too_large_for_a_table_and_a_line_that_is_none_stop_nobody(copy, capsys):
    one, other = (path / record.FILE_NAME for path in sorted((copy / "runs").iterdir())[:2])
    for path, change in ((one, {"values": {"seed": 2**63}}), (other, {"hardware": None})):
        first, *rest = path.read_text().splitlines()
        about = json.loads(first)
        for key, value in change.items():
            about[key] = about[key] | value if value else value
        path.write_text("\n".join([json.dumps(about), *rest]) + "\n")
    assert collect.main([f"results_dir={copy}"]) == 1
    assert capsys.readouterr().err.count(str(other)) == 1
    runs = pd.read_parquet(copy / "runs.parquet").set_index("run")
    assert len(runs) == 5 and float(runs.seed[one.parent.name]) == 2.0**63


def test_where_there_is_no_room_both_tables_stay_as_they_were(copy, monkeypatch):
    some = min((copy / "runs").iterdir())
    some.rename(copy / "away")
    update(copy)
    before = {name: (copy / name).read_bytes() for name in ("tidy.parquet", "runs.parquet")}
    (copy / "away").rename(some)

    def full(*_):
        raise OSError("no room")

    monkeypatch.setattr("runners.archive._write_table", full)
    with pytest.raises(OSError, match="no room"):
        update(copy)
    assert before == {name: (copy / name).read_bytes() for name in before}
    assert not list(copy.glob("*.tmp"))


def test_only_what_changed_is_read_and_the_table_is_the_same(copy):
    update(copy)
    whole = (copy / "tidy.parquet").read_bytes()
    assert update(copy).read == 0
    some = sorted((copy / "runs").iterdir())[2]
    moved = copy / "away"
    some.rename(moved)
    assert update(copy).finished == 5
    moved.rename(some)
    found = update(copy)
    assert (found.finished, found.read) == (6, 1)
    assert (copy / "tidy.parquet").read_bytes() == whole
    (copy / "tidy.parquet").unlink()
    assert update(copy).read == 0 and (copy / "tidy.parquet").read_bytes() == whole


def test_settings_of_another_kind_than_a_number_become_text(copy):
    """A list in one optimizer, and a name that is a number in one and a word in another."""
    paths = sorted((copy / "runs").iterdir())
    for path, more in zip(
        paths, ({"nus": [0.7, 1.0]}, {"decay": "cosine"}, {"decay": 0.5}), strict=False
    ):
        first, *rest = (path / record.FILE_NAME).read_text().splitlines()
        about = json.loads(first)
        about["values"]["optimizer"] |= more
        (path / record.FILE_NAME).write_text("\n".join([json.dumps(about), *rest]) + "\n")
    update(copy)
    records = [record.read_record(path) for path in paths]
    (copy / "one.parquet").write_bytes(collect.to_parquet(collect.tidy_table(records, "none")))
    for found in (table(copy), pd.read_parquet(copy / "one.parquet")):
        by_run = found.astype({"run": str}).groupby("run")
        assert set(by_run.get_group(paths[0].name).nus) == {"[0.7, 1.0]"}
        assert set(by_run.get_group(paths[1].name).decay) == {"cosine"}
        assert set(by_run.get_group(paths[2].name).decay) == {"0.5"}
        assert by_run.get_group(paths[3].name).decay.isna().all()


@pytest.mark.parametrize(
    "damage",
    ["garbage in the middle", "no first line", "a row too short", "one value for all replicas"],
)
def test_a_damaged_record_is_named_and_the_others_are_gathered(copy, capsys, damage):
    bad = sorted((copy / "runs").iterdir())[1] / record.FILE_NAME
    lines = bad.read_text().splitlines()
    if damage == "garbage in the middle":
        lines[2] = lines[2][:10]
    elif damage == "no first line":
        lines[0] = "\0" * 20
    elif damage == "a row too short":
        lines[2] = json.dumps({"step": 10, "distance": [1.0]})
    else:
        lines[1:-1] = [json.dumps({"step": 10, "train_seconds": 1.0, "distance": [1.0]})] * 3
    bad.write_text("\n".join(lines) + "\n")
    for _ in range(2):  # also when nothing has changed
        assert collect.main([f"results_dir={copy}"]) == 1
        caught = capsys.readouterr()
        assert caught.err.count(str(bad)) == 1 and "5 finished records" in caught.out
    assert table(copy).run.nunique() == 5


def test_unfinished_ones_wait_and_a_damaged_cache_is_made_again(copy, capsys):
    some = min((copy / "runs").iterdir()) / record.FILE_NAME
    whole = some.read_text()
    some.write_text("\n".join(whole.splitlines()[:3]) + "\n")
    assert update(copy).unfinished == 1
    some.write_text(whole)
    assert update(copy).read == 1
    content = (copy / "tidy.parquet").read_bytes()
    for name in ("index.json", "rows-*.parquet"):
        (file,) = (copy / ".collected").glob(name)
        file.write_bytes(b"x" * 100)
        (copy / "runs" / "new").mkdir(exist_ok=True)
        shutil.copy(some, copy / "runs" / "new" / record.FILE_NAME)
        assert update(copy).read == 7
        shutil.rmtree(copy / "runs" / "new")
        update(copy)
        assert (copy / "tidy.parquet").read_bytes() == content
    assert collect.main([f"results_dir={copy / 'nowhere'}"]) == 2
    assert "no folder runs" in capsys.readouterr().err


def test_two_at_once_leave_the_same_table_as_one(copy):
    command = [sys.executable, "-m", "runners.collect", f"results_dir={copy}"]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    at_once = (copy / "tidy.parquet").read_bytes()
    shutil.rmtree(copy / ".collected")
    (copy / "tidy.parquet").unlink()
    update(copy)
    assert (copy / "tidy.parquet").read_bytes() == at_once
