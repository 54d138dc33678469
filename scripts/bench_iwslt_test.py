import re
import sys

import numpy as np
import pytest

from scripts import bench_iwslt as bench
from tasks.iwslt_transformer.batches import batch
from tasks.iwslt_transformer.task import IwsltTransformer


def test_the_operations_are_those_of_all_matrix_products():
    width, hidden, layers = 24, 40, 2
    task = IwsltTransformer([0], max_tokens=160, width=width, feed_forward=hidden, heads=2,
                            layers=layers).to("meta")  # fmt: skip
    made = batch(task.pairs, np.arange(8))  # of any lengths, so with padding on both sides
    source, target = len(made.source.tokens), len(made.target)
    (rows, longest_source), (_, longest_target) = made.source.shape, made.shifted.shape
    assert source < rows * longest_source and target < rows * longest_target
    square, feed = width * width, 2 * width * hidden
    linear = source * (4 * square + feed) + target * (4 * square + feed)  # self-attention, fc
    linear += (2 * source + 2 * target) * square  # k and v of the encoder's states, q and out
    scores = longest_source**2 + longest_target**2 + longest_target * longest_source
    products = layers * (linear + 2 * rows * scores * width) + target * width * len(task.target)
    # a multiplication and an addition; once forward, twice backward
    assert bench.flops(task, made) == 2 * 3 * products


def test_without_fairseq_ours_are_measured_alone(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fairseq", None)
    monkeypatch.setattr(bench, "PRODUCT", {"cpu": 1024})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes; more wait for each other
    monkeypatch.setattr("sys.argv", ["bench", "--rounds", "1", "--max-tokens", "160"])
    assert bench.main() == 0
    out, err = capsys.readouterr()
    assert "fairseq is not installed and takes no part" in err and "fairseq" not in out
    _, *lines = out.replace(",", "").splitlines()
    assert [line[:9] for line in lines] == [*bench.OURS, *bench.OURS]
    for speed, floor in zip(lines[:2], lines[2:], strict=True):
        a_second = float(re.findall(r" ([\d.]+) target", speed)[0])
        spent, percent, least, at_floor = map(float, re.findall(r" ([\d.]+)[ %]", floor)[:4])
        assert percent == pytest.approx(100 * spent / least, rel=0.02, abs=1)
        assert at_floor / a_second == pytest.approx(spent / least, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--follow", "2"], "--follow: needs fairseq, pip install '.[fairseq]'"),
        (["--rounds", "0"], "--rounds, --max-tokens and --follow: whole numbers >= 1 expected"),
        (["--corpus", "nowhere"], "--corpus nowhere: no such folder"),
        (["--max-tokens", "2"], "error: max_tokens=2: "),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fairseq", None)
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as exit_:
        bench.main()
    assert exit_.value.code == 2 and message in capsys.readouterr().err
