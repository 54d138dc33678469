"""The runs of a sweep, before any is run."""

import pytest

from runners.config import CONF, ConfigError, compose_config, resolve
from runners.plan import plan


@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_a_planned_run_is_the_one_that_hydra_composes(scale):
    jobs = plan(["experiment=rosenbrock_noise", f"scale={scale}"])
    assert len({job.config.key for job in jobs}) == len(jobs) == 36
    for job in jobs[::7]:
        assert resolve(compose_config(job.overrides)) == job.config


def test_every_optimizer_of_the_experiment_gets_the_same_trials():
    grids, steps, common = {}, {}, {}
    for job in plan(["experiment=rosenbrock_noise", "scale=paper"]):
        values, name = job.config.values, job.config.names["optimizer"]
        if values["task"]["path"]:
            continue
        optimizer = dict(values["optimizer"])
        grids.setdefault(name, set()).add(optimizer["lr"])
        if optimizer["lr"] == 0.01 and name != "signsgd":
            common[name] = values["steps"]
        else:
            steps.setdefault(name, set()).add(values["steps"])
        assert optimizer.get("betas", [0.9, 0.9]) == [0.9, 0.9]
        assert len(values["seeds"]) == 220
    assert set(grids) == {"laprop", "adam", "amsgrad", "radam", "adabound", "signsgd"}
    assert all(grid == {0.003, 0.01, 0.03, 0.1, 0.3} for grid in grids.values())
    assert all(each == {8000} for each in steps.values())
    assert common == dict.fromkeys(set(grids) - {"signsgd"}, 30000)


def test_a_scale_can_be_changed():
    given = ["scales.smoke.lrs=[0.5, 0.25]", "scales.smoke.steps=7"]
    jobs = plan(["experiment=iwslt_warmup", "scale=smoke", *given])
    assert {job.config.values["optimizer"]["lr"] for job in jobs} == {0.5, 0.25}
    assert {job.config.values["steps"] for job in jobs} == {7}
    with pytest.raises(ConfigError, match="scales.quick.steps: of no effect at scale=smoke"):
        plan(["experiment=iwslt_warmup", "scale=smoke", "scales.quick.steps=7"])


def test_what_the_sweeps_take_from_a_key_follows_it():
    smoke = ["experiment=convex_regret", "scale=smoke"]
    values = [job.config.values for job in plan([*smoke, "lrs=[30.0]", "sequence_steps=7"])]
    assert len(values) == len(plan(smoke)) / 5
    assert {v["optimizer"]["lr"] for v in values} == {30.0}
    assert {v["steps"] for v in values} == {60, 7}
    # through a list of the scale's
    jobs = plan(["experiment=bounded_update", "all_betas=[[0.5,0.5]]"])
    assert [job.config.values["optimizer"]["betas"] for job in jobs] == [[0.5, 0.5]] * 2
    assert len(plan([*smoke, "lrs=[30.0,3.0]", "optimizer.lr=3", "optimizer=signsgd"])) == 2
    for wrong, message in {
        "lrs=[1.0],[2.0]": r"lrs=\[1.0\],\[2.0\]: one value expected, as the sweeps",
        "lrs=30": "sweeps.noisy.optimizer.lr=30: a list of values expected",
    }.items():
        with pytest.raises(ConfigError, match=message):
            plan([*smoke, wrong])


def test_an_override_narrows_what_is_swept_and_sets_what_is_not():
    narrowed = plan(["experiment=rosenbrock_noise", "optimizer=adam", "optimizer.lr=1e-2,0.03"])
    assert [j.config.values["optimizer"]["lr"] for j in narrowed] == [0.01, 0.01, 0.03]
    whole = {job.config.key for job in plan(["experiment=style_curves"])}
    one = plan(["experiment=style_curves", "optimizer.lr=1", "optimizer=adam"])  # there as 1.0
    assert len(one) == 1 and one[0].config.key in whole
    changed = plan(["experiment=rosenbrock_noise", "task.tol=0.2"])
    assert {j.config.values["task"]["tol"] for j in changed} == {0.2}
    for wrong, message in {
        "optimizer=adan": "optimizer=adan: the experiment sweeps optimizer; did you mean adam?",
        "optimizer=adam,sgd": "optimizer=sgd: the experiment sweeps optimizer; .*one of laprop",
        "steps=10": "steps=10: the experiment sweeps steps; .*one of 2500, 8000 expected; other values: scales.quick.steps=10$",
        "optimizer.lr=7": "one of .* expected$",  # no list of the scale's
    }.items():
        with pytest.raises(ConfigError, match=message):
            plan(["experiment=rosenbrock_noise", wrong])
    with pytest.raises(ConfigError, match="no run of the experiment has all of these"):
        plan(["experiment=rosenbrock_noise", "optimizer=adam", "optimizer.lr=0.1", "steps=2500"])
    with pytest.raises(ConfigError, match="optimizer.lrr"):
        plan(["optimizer=adam,sgd", "optimizer.lrr=1,2"])
    with pytest.raises(ConfigError, match="optimizer.fused: unknown key of optimizer=radam"):
        plan(["optimizer=adam,radam", "optimizer.fused=true"])


def test_an_experiment_keeps_its_task():
    for other in ("deep_fc", "iwslt_transformer,deep_fc"):
        message = f"task={other}: experiment=iwslt_warmup is on iwslt_transformer"
        with pytest.raises(ConfigError, match=message):
            plan(["experiment=iwslt_warmup", "scale=smoke", f"task={other}"])
    assert plan(["experiment=iwslt_warmup", "scale=smoke", "task=iwslt_transformer"])


def test_the_labels_of_a_sweep_tell_its_runs_apart():
    labels = [job.label for job in plan(["experiment=iwslt_warmup", "scale=smoke"])]
    assert len(set(labels)) == len(labels) == 8
    assert "iwslt_transformer adam lr=0.001 warmup=4 seed=1" in labels
    (alone,) = plan(["task=rosenbrock", "optimizer=adam", "seed=3"])
    assert alone.label == "rosenbrock adam lr=0.001"
    (one, _) = plan(["task=rosenbrock", "task.sigma=[0,0.01,0.02,0.03,0.04,0.05],0.1"])
    assert one.label.endswith(" sigma=[0,0.01,0....0.04,0.05]")


@pytest.mark.parametrize(
    "experiment",
    sorted(p.stem for p in (CONF / "experiment").glob("*.yaml") if p.stem != "none"),
)
def test_no_two_runs_of_an_experiment_have_one_label(experiment):
    labels = [job.label for job in plan([f"experiment={experiment}", "scale=smoke"])]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("experiment", "wrong", "place"),
    [
        ("bounded_update", "optimizer.betas=[0.9,0.2]", "scales.smoke.betas=[[0.9,0.2]]"),
        ("iwslt_warmup", "seed=7,8", "scales.smoke.seeds=[7,8]"),
        ("iwslt_warmup", "schedule.warmup=7", "scales.smoke.warmup=7"),
        ("convex_regret", "optimizer.lr=30", "lrs=[30]"),
        ("uv_plane", "u=0.7", "scales.smoke.u=[0.7]"),
        ("tuning_rosenbrock", "trial=99", None),
    ],
)
def test_the_advice_about_other_values_is_right(experiment, wrong, place):
    with pytest.raises(ConfigError) as error:
        plan([f"experiment={experiment}", "scale=smoke", wrong])
    if place is None:
        assert "other values" not in str(error.value)
        return
    assert str(error.value).endswith(f"other values: {place}")
    assert plan([f"experiment={experiment}", "scale=smoke", place, wrong])


def test_what_a_sweep_takes_from_a_scale_has_to_be_a_list():
    with pytest.raises(ConfigError, match="sweeps.laprop.seed=7: a list of values expected"):
        plan(["experiment=iwslt_warmup", "scale=smoke", "scales.smoke.seeds=7"])


def test_an_experiment_can_be_narrowed_and_widened_at_once():
    jobs = plan(
        ["experiment=rosenbrock_noise", "scale=smoke", "optimizer=laprop", "optimizers=+sgd"]
    )
    names = [job.config.names["optimizer"] for job in jobs]
    assert set(names) == {"laprop", "sgd"} and names.count("sgd") >= 5
