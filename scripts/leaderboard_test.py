"""The leaderboard from tables made by hand, targets, and an optimizer more."""

import math

import numpy as np
import pandas as pd
import pytest

from runners.config import ConfigError, on_leaderboard
from runners.plan import plan
from scripts import leaderboard, provenance, statistics
from scripts.figures import board, style, targets
from scripts.leaderboard import ALL, FAIR

NONE = math.nan


def rows(experiment, problem, times, horizon=100, refused=""):
    """``times[optimizer]``: the steps of seeds 0, 1, ..."""
    found = [
        {"problem": f"{experiment}, {problem}", "target": "loss below 1", "optimizer": name,
         "seed": seed, "steps": steps, "horizon": horizon, "tuning": "3 lrs x 2 seeds each",
         "refused": refused}
        for name, own in times.items() for seed, steps in enumerate(own)
    ]  # fmt: skip
    return pd.DataFrame(found)


def write(folder, scale="quick", **experiments):
    for name, tables in experiments.items():
        path = folder / name / scale
        path.mkdir(parents=True)
        pd.concat(tables).to_csv(path / "steps_to_target.csv", index=False)
    return folder


def spread(level, n=12):
    return [level + seed for seed in range(n)]


@pytest.fixture
def made(tmp_path):
    """LaProp leads on the first experiment, signSGD on the second, which is refused."""
    first = {"laprop": spread(10), "adam": spread(40), "signsgd": [NONE] * 12}
    second = {"laprop": [NONE] * 12, "adam": [*spread(50, 8), *[NONE] * 4], "signsgd": spread(5)}
    write(tmp_path, a_depth=[rows("a_depth", "1", first), rows("a_depth", "2", first)],
          b_style=[rows("b_style", "", second, refused="the trials differ")])  # fmt: skip
    return leaderboard.make(tmp_path, "quick"), first, second


def test_ranking_counts_the_censored_as_the_horizon(made):
    folder, _, second = made
    ranking = pd.read_csv(folder / "ranking.csv")
    third = ranking[ranking.experiment == "b_style"].set_index("optimizer")
    assert list(third.index) == ["signsgd", "adam", "laprop"] and list(third["rank"]) == [1, 2, 3]
    capped = np.where(np.isnan(second["adam"]), 100, second["adam"])
    expected = statistics.mean_interval(capped)
    adam = third.loc["adam"]
    assert (adam.restricted_mean, adam.low, adam.high) == pytest.approx(
        (capped.mean(), expected.low, expected.high)
    )
    assert adam.reached == 8 and adam.fraction == pytest.approx(2 / 3)
    assert adam.ratio == pytest.approx(capped.mean() / np.mean(second["signsgd"]))
    assert third.loc["laprop"].ratio == math.inf and third.loc["laprop"].restricted_mean == 100
    # paired: in the first experiment every seed of Adam is 30 behind
    one = ranking[ranking.problem == "a_depth, 1"].set_index("optimizer").loc["adam"]
    assert (one.behind, one.behind_low, one.behind_high) == (30, 30, 30)


def test_the_board_by_hand_with_and_without_what_is_refused(made):
    folder, _, second = made
    boards = pd.read_csv(folder / "board.csv")
    every = boards[boards.problems == ALL].set_index("optimizer")
    fair = boards[boards.problems == FAIR].set_index("optimizer")
    slow = 1 - math.log2(45.5 / 15.5) / 4
    capped = np.where(np.isnan(second["adam"]), 100, second["adam"]).mean()
    late = max(0, 1 - math.log2(capped / np.mean(second["signsgd"])) / 4)
    assert every.score.to_dict() == pytest.approx(
        {"laprop": 0.5, "signsgd": 0.5, "adam": slow / 2 + late / 2}
    )
    assert fair.score.to_dict() == pytest.approx({"laprop": 1, "adam": slow, "signsgd": 0})
    assert every["reaches"].to_dict() == {"laprop": 0.5, "signsgd": 0.5, "adam": 1}
    text = (folder / "README.md").read_text()
    assert "Leaving out the 1 problem marked † changes the order" in text
    assert "b_style, †" in text and "the trials differ" in text
    for number in every.score:
        assert f"{number:.2f} (" in text
    curves = pd.read_csv(folder / "profile.csv")
    start = curves[(curves.tau == 1) & (curves.problems == ALL)].set_index("optimizer")
    assert start.rho.to_dict() == {"laprop": 0.5, "adam": 0, "signsgd": 0.5}
    assert (curves.low <= curves.rho).all() and (curves.rho <= curves.high).all()


def test_problems_of_few_seeds_are_ranked_but_not_on_the_board(made, tmp_path):
    folder, *_ = made
    before = pd.read_csv(folder / "board.csv")
    few = {"laprop": [NONE] * 9, "adam": spread(1, 9), "signsgd": spread(1, 9)}
    write(tmp_path, c_few=[rows("c_few", "", few)])
    after = leaderboard.make(tmp_path, "quick")
    pd.testing.assert_frame_equal(pd.read_csv(after / "board.csv"), before)
    assert "c_few, *" in (after / "README.md").read_text()


def test_the_figure_can_be_read(made):
    folder, *_ = made
    tables = leaderboard.tabulate(leaderboard.read(folder.parent.parent, "quick"))
    drawn = board.draw(tables.ranking, tables.profile, tables.board, "quick")
    assert style.clashes(drawn) == []
    assert "3 problems of 2 experiments" in drawn.texts[-1].get_text()
    one = tables.ranking[tables.ranking.experiment == "b_style"]
    caption = board.draw(one, tables.profile, tables.board, "quick").texts[-1].get_text()
    assert "1 problem of 1 experiment," in caption.replace("\n", " ")
    assert all(ax.get_xlabel() for ax in drawn.axes)
    assert {p.name for p in folder.iterdir()} >= {"figure.png", "figure.pdf", "figure.svg"}


def test_few_seeds_withheld_results_and_absent_optimizers_are_told(tmp_path):
    few = {"laprop": [10], "adam": [20], "radam": [30]}
    write(tmp_path, one=[rows("one", "", few)], two=[rows("two", "", {"laprop": [1], "adam": [2]})])
    provenance.write(tmp_path / "two" / "quick", {"withheld": ["duplicated seeds: seed 3"]})
    text = (leaderboard.make(tmp_path, "quick") / "README.md").read_text()
    assert "Not on the board, as some problems lack them: RAdam" in text
    assert "two, †*" in text and "duplicated seeds" in text and "inf" not in text


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ("quik", "scale=quik: unknown scale; did you mean quick"),
        ("paper", "no experiment has a steps_to_target.csv at scale=paper"),
        ("quick+mine", "scripts.reproduce scale=quick optimizers=+mine"),
    ],
)
def test_bad_input_is_one_line(tmp_path, scale, words, capsys):
    with pytest.raises(ConfigError) as error:
        leaderboard.make(tmp_path, scale)
    assert words in str(error.value) and "\n" not in str(error.value)
    name, _, more = scale.partition("+")
    given = [f"scale={name}", f"results_dir={tmp_path}"] + ([f"optimizers=+{more}"] if more else [])
    assert leaderboard.main(given) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "leaderboard").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: pd.concat([t, t.tail(1)]), "occurs twice"),
        (lambda t: t.iloc[:-1], "seeds differ between optimizers"),
        (lambda t: t.assign(steps=t.steps + 95), r"steps outside \(0, 100\]"),
        (lambda t: t.drop(columns="target"), "no column target"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, damage, words):
    table = rows("one", "", {"laprop": spread(10), "adam": spread(20)})
    write(tmp_path, one=[damage(table)])
    with pytest.raises(ConfigError, match=words):
        leaderboard.make(tmp_path, "quick")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a table"),
        (b"\xff\xfe\x00", "not a table"),
        ("steps", "steps: numbers expected"),
        ("seed", "seed: numbers expected"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_in_one_line(tmp_path, content, words, capsys):
    table = rows("one", "", {"laprop": spread(10), "adam": spread(20)})
    path = write(tmp_path, one=[table]) / "one" / "quick" / "steps_to_target.csv"
    if content in table:
        table.astype({content: object}).replace({content: {table[content].iloc[3]: "many"}}).to_csv(
            path, index=False
        )
    else:
        path.write_bytes(content or b"")
    assert leaderboard.main(["scale=quick", f"results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: {words}; ") and error.count("\n") == 1


# ---- targets


def test_the_first_evaluation_at_the_target_counts_and_never_is_kept():
    paths = {0: [9, 5, 1, 5], 1: [9, 9, 9, 9], 2: [0, 9, 9, 0], 3: [9, 0, 0, 0]}
    table = pd.DataFrame([{"optimizer": "adam", "seed": seed, "step": 10 * i, "value": value}
                          for seed, path in paths.items() for i, value in enumerate(path)])  # fmt: skip
    found = targets.first_reached(table, table.value < 2, table.seed == 3).set_index("seed").steps
    # 1 never; 2 is there at the start, which does not count; 3 diverged
    assert found.fillna(-1).to_dict() == {0: 20, 1: -1, 2: 30, 3: -1}


def test_an_added_optimizer_does_not_move_the_target():
    ends = {"laprop": 1.0, "adam": 2.0, "radam": 4.0, "mine": -9.0}
    outcomes = pd.DataFrame([
        {"optimizer": name, "phase": phase, "lr": lr, "seed": 0, "value": end + (lr > 0.1)}
        for name, end in ends.items() for phase in ("tune", "report") for lr in (0.1, 1.0)
    ])  # fmt: skip
    chosen = pd.DataFrame([{"optimizer": name, "lr": 0.1} for name in ends])
    own = ["laprop", "adam", "radam"]
    assert targets.median_on_tuning_seeds(outcomes, chosen, own) == 2.0


# ---- optimizers=+mine


@pytest.mark.parametrize("experiment", on_leaderboard())
def test_an_added_optimizer_gets_what_its_kind_gets(experiment):
    before = plan([f"experiment={experiment}", "scale=smoke"])
    after = plan([f"experiment={experiment}", "scale=smoke", "optimizers=+adamw,+rmsprop"])
    assert [job.config.key for job in after[: len(before)]] == [job.config.key for job in before]

    def settings(optimizer):
        return [
            [job.config.values[key] for key in ("seeds", "steps", "task", "eval_every")]
            + [job.config.values["optimizer"].get(key) for key in ("lr", "betas")]
            for job in after
            if job.config.names["optimizer"] == optimizer
        ]

    assert settings("adamw") == settings("adam") != []
    assert settings("rmsprop") == settings("signsgd") != []
    eps = {job.config.values["optimizer"]["eps"] for job in after
           if job.config.names["optimizer"] in ("adamw", "rmsprop", "adam")}  # fmt: skip
    assert len(eps) == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["experiment=deep_fc_depth", "optimizers=+adamx"], "did you mean adam"),
        (["experiment=deep_fc_depth", "optimizers=adamw"], r"optimizers=\+NAME adds one"),
        (["experiment=deep_fc_depth", "optimizers=+adam"], "has it already"),
        (["experiment=bounded_update", "optimizers=+adamw"], "does not compare all optimizers"),
        (["task=rosenbrock", "optimizers=+adamw"], "for experiments"),
    ],
)
def test_what_cannot_be_added_is_one_line(overrides, words):
    with pytest.raises(ConfigError, match=words) as error:
        plan(overrides)
    assert "\n" not in str(error.value)
