import math

import pandas as pd
import pytest

from scripts import bench_optimizers as bench


def test_the_parameter_sets_are_what_they_are_called():
    sizes = {name: [math.prod(shape) for shape in make()] for name, make in bench.SETS.items()}
    assert {name: len(sizes[name]) for name in sizes} == {
        "16 x 1M": 16, "256 layers": 512, "ResNet-50": 161, "transformer": 185,
    }  # fmt: skip
    assert sum(sizes["16 x 1M"]) == 2**24
    assert sum(sizes["ResNet-50"]) == 25_557_032  # as torchvision counts it
    assert 35.9e6 < sum(sizes["transformer"]) < 36.2e6


@pytest.mark.parametrize("absent", [(), ("nobody's LaProp",)])
def test_the_table_is_written_with_its_provenance(tmp_path, monkeypatch, capsys, absent):
    """Unless a library is missing: the committed one has them all."""
    monkeypatch.setattr(bench, "PEERS", absent)
    small = {name: lambda: [(3, 2), (4,)] for name in bench.SETS}
    monkeypatch.setattr(bench, "SETS", small)
    monkeypatch.setattr(bench, "COPY_ELEMENTS", 1000)
    arguments = ["bench", "--rounds", "3", "--device", "cpu", "--results-dir", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert bench.main() == 0
    if absent:
        assert "stays as it is: without nobody's LaProp" in capsys.readouterr().out
        assert not list(tmp_path.iterdir())
        return
    table = pd.read_csv(tmp_path / "bench_optimizers" / "cpu" / "table.csv")
    assert set(table["set"]) == set(bench.SETS)
    assert (table.loc[table["optimizer"] == bench.BASE, "ratio"] == 1).all()
    assert (table[["ms", "ratio", "of_copy"]] > 0).all().all()
    readme = (tmp_path / "bench_optimizers" / "cpu" / "README.md").read_text()
    assert "torch " in readme and "digest" in readme and "| LaProp fused |" in readme


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--rounds", "1"], "--rounds 1: a whole number >= 2 expected"), (["--device", "tpu"], "tpu")],
)
def test_bad_arguments(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["bench", "--results-dir", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as exit_:
        bench.main()
    assert exit_.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
