from dataclasses import replace

import numpy as np
import pytest

from scripts import compare_implementations as compare


@pytest.fixture
def without_peers(monkeypatch):
    """Nothing but ours and torch's."""
    contests = {
        name: replace(
            contest,
            contestants={
                label: make
                for label, make in contest.contestants.items()
                if label.startswith(("ours", "torch"))
            },
        )
        for name, contest in compare.CONTESTS.items()
    }
    monkeypatch.setattr(compare, "CONTESTS", contests)


def test_ours_and_torchs_follow_the_published_updates_to_rounding(without_peers):
    rows = list(compare.compare())
    assert len(rows) == 12 * 4 + 6 * 3 + 6 * 1 + 6 * 3
    assert {row["optimizer"] for row in rows} == {"LaProp", "AMSGrad", "RAdam", "AdaBound"}
    for row in rows:
        assert row["deviation"] < 2e-5, row


def test_a_deviation_is_measured_and_shown():
    """Adam in the place of LaProp, an implementation that explodes, and one without the option."""
    import torch

    def explodes(params, options):
        return torch.optim.SGD(params, lr=compare.LR, momentum=0.9, maximize=True)

    contest = compare.CONTESTS["LaProp"]
    case = contest.cases[0]
    start = np.zeros(compare.SIZE)
    reference = compare.reference_path(contest, case, start)
    adam = compare.path_of(lambda p, o: torch.optim.Adam(p, lr=compare.LR), case, start)
    assert np.abs(adam - reference).max() > 0.01 * np.abs(reference).max()
    assert compare.path_of(lambda p, o: None, case, start) is None
    assert compare.path_of(explodes, case, start).shape == (compare.STEPS, compare.SIZE)
    shown = [compare.share(value) for value in (np.nan, np.inf, 0.31, 2e-6)]
    assert shown == ["–", "**not finite**", "**31%**", "2e-6"]


def test_missing_peers_are_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compare, "_installed", lambda name: name == "timm")
    monkeypatch.setattr("sys.argv", ["compare", "--results-dir", str(tmp_path)])
    assert compare.main() == 2
    error = capsys.readouterr().err
    assert "pytorch_optimizer, heavyball not installed" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
