import subprocess
import sys

import pytest
from omegaconf import open_dict

from runners.config import (
    ROOT,
    TUNING_SEEDS_START,
    ConfigError,
    compose_config,
    resolve,
    resolve_values,
    without_hydra,
)


def key(*overrides):
    return resolve(compose_config(overrides)).key


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=rosenbrok"], ["task=rosenbrok", "did you mean rosenbrock"]),
        (["optimizer=adm"], ["optimizer=adm", "did you mean adam", "signsgd"]),
        (["experiment=rosenbrock_nois"], ["did you mean rosenbrock_noise"]),
        (["scale=papr"], ["scale=papr", "did you mean paper"]),
        (["optimizer.beta=1"], ["optimizer.beta", "unknown key", "did you mean optimizer.betas"]),
        (["optimizer.zzz=1"], ["optimizer.zzz", "unknown key", "optimizer.lr"]),
        (
            ["experiment=rosenbrock_noise", "scales.smoke.stps=1"],
            ["did you mean scales.smoke.steps"],
        ),
        (["experiment=rosenbrock_noise", "tuning_step=1"], ["did you mean tuning_steps"]),
        (["optimizer.fused=1"], ["optimizer.fused=1", "true, false or null"]),
        (["optimizer.amsgrad=no"], ["optimizer.amsgrad=no", "true or false"]),
        (["optimizer=sgd", "optimizer.nesterov=1"], ["optimizer.nesterov=1", "true or false"]),
        (["step=1"], ["step: unknown key", "did you mean steps"]),
        (["nonsense"], ["nonsense", "key=value expected"]),
        (["optimizer=adam,laprop"], ["optimizer=adam,laprop", "add -m"]),
        (["optimizer.lr=-1"], ["optimizer.lr=-1", ">= 0"]),
        (["optimizer.lr=inf"], ["optimizer.lr=inf", "finite"]),
        (["optimizer.lr=fast"], ["optimizer.lr=fast", "number"]),
        (["optimizer.eps=-1e-8"], ["optimizer.eps=-1e-08"]),
        (["optimizer.betas=[0.9,1.0]"], ["optimizer.betas=[0.9, 1.0]", "[0, 1)"]),
        (["optimizer.betas=[0.9]"], ["optimizer.betas=[0.9]", "two numbers"]),
        (["optimizer=sgd", "optimizer.momentum=1"], ["optimizer.momentum=1", "[0, 1)"]),
        (["steps=0"], ["steps=0", ">= 1"]),
        (["steps=1.5"], ["steps=1.5", "whole number"]),
        (["eval_every=0"], ["eval_every=0"]),
        (["checkpoint_every=-1"], ["checkpoint_every=-1"]),
        (["seeds=[]"], ["seeds=[]", "non-empty"]),
        (["seeds=0"], ["seeds=0", "count >= 1"]),
        (["seeds=[1,1]"], ["seeds=[1, 1]", "different"]),
        ([f"seeds=[{TUNING_SEEDS_START}]"], ["seeds=", "999,999"]),
        (["seed=-1"], ["seed=-1"]),
        (["device=tpu"], ["device=tpu", "auto, cpu, cuda"]),
        (["precision=fp8"], ["precision=fp8", "fp32, bf16"]),
        (["tracking=on"], ["tracking=", "offline, online, disabled"]),
        (["scale=3"], ["scale=3", "smoke"]),
        (["results_dir=null"], ["results_dir=None", "a folder"]),
        (["seed=999999", "seeds=2", "tuning_seeds=1"], ["seed=999999", "999,998"]),
        (["force=maybe"], ["force=maybe", "true or false"]),
        (["task=rainbow", "task.noisy=5"], ["task.noisy=5", "true or false"]),
        (["task=rainbow_hessel", "task.double=5"], ["task.double=5", "true or false"]),
        (["hydra/launcher=jobllib"], ["hydra/launcher=jobllib: unknown", "mean joblib", "basic"]),
        (
            ["hydra/launcher=joblib", "hydra.launcher.njobs=2"],
            ["hydra.launcher.njobs: unknown key"],
        ),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=x"], ["hydra.launcher.n_jobs=x: not"]),
        (["schedule=cosine", "schedule.T_max=0"], ["schedule.T_max=0", "whole number", ">= 1"]),
        (["schedule=cosine", "schedule.eta_min=x"], ["schedule.eta_min=x", "finite number >= 0"]),
        (["schedule=linear", "schedule.end_factor=2"], ["schedule.end_factor=2", "from 0 to 1"]),
        (["schedule=warmup", "schedule.total_iters=1.5"], ["schedule.total_iters=1.5", "whole"]),
        (["schedule=polynomial_decay", "schedule.warmup=-1"], ["schedule.warmup=-1", ">= 0"]),
        (["schedule=polynomial_decay", "schedule.total=null"], ["schedule.total=None", ">= 1"]),
        (["schedule=polynomial_decay", "schedule.power=x"], ["schedule.power=x", ">= 0"]),
        (["optimizer=sgd", "optimizer.dampening=x"], ["optimizer.dampening=x", "finite number"]),
    ],
)
def test_bad_input_is_one_line_that_names_key_value_and_what_is_allowed(overrides, words):
    with pytest.raises(ConfigError) as caught:
        resolve(compose_config(overrides))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_key_changes_with_what_decides_the_numbers_and_with_nothing_else():
    base = key()
    for override in ("optimizer.lr=0.5", "seed=1", "seeds=2", "steps=7", "task.tol=0.2",
                     "schedule=cosine", "optimizer=adam", "eval_every=3", "precision=bf16",
                     "device=cpu", "tuning_seeds=1"):  # fmt: skip
        assert key(override) != base, override
    for override in ("results_dir=elsewhere", "tracking=disabled", "force=true", "data_dir=d",
                     "checkpoint_every=3", "scale=paper"):  # fmt: skip
        assert key(override) == base, override


def test_key_does_not_depend_on_where_the_data_lie():
    assert key("task=deep_fc", "data_dir=/elsewhere") == key("task=deep_fc")


def test_key_does_not_depend_on_how_a_value_is_spelled():
    assert key("optimizer.lr=1", "seeds=3") == key("optimizer.lr=1.0", "seeds=[0,1,2]")
    assert key("seed=2", "seeds=1") != key("seeds=[2]")  # torch's global stream differs
    assert key("optimizer.lr=1e-2") == key("optimizer.lr=0.01")


def test_tuning_seeds_never_meet_reporting_seeds():
    seeds = resolve(compose_config(["seeds=3", "tuning_seeds=2"])).values["seeds"]
    assert seeds == [0, 1, 2, TUNING_SEEDS_START, TUNING_SEEDS_START + 1]


def test_planning_needs_no_torch():
    code = (
        "import sys, runners.run, runners.sweep, runners.status; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_new_key_of_an_optimizer_that_is_null_leaves_its_runs_their_names():
    cfg, names = without_hydra(compose_config(["optimizer=adam"]))
    assert cfg.optimizer.fused is None
    with open_dict(cfg):
        del cfg.optimizer.fused
    assert resolve_values(cfg, names).key == key("optimizer=adam")
    assert key("optimizer=adam", "optimizer.fused=false") != key("optimizer=adam")
