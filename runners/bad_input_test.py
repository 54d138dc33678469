"""Bad input at the command line: one line, exit code 2, nothing half-written."""

import re
import shutil

import pytest

from runners import config as config_module
from runners import record, status
from runners import run as run_module
from runners.config import ROOT
from runners.plan import plan
from runners.run import main
from runners.sweep_test import small


def test_a_fused_form_without_a_compiler_is_refused_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["optimizer=laprop", "optimizer.fused=true", f"results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: optimizer.fused=True on a CPU needs a C++ compiler")
    assert error.count("\n") == 1 and not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("flag", ["--config-dir=conf", "--config-name", "--multi-run", "-x"])
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_an_option_that_there_is_not_runs_nothing_and_says_so(tmp_path, capsys, flag, sweep):
    assert main([*sweep, flag, "optimizer=adam", "steps=1", f"results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {flag}: unknown option; --help, -m or key=value expected\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--info=all"]])
def test_what_shows_one_run_is_not_for_sweeps(tmp_path, capsys, flags):
    assert main(["-m", *flags, "optimizer=adam,laprop", f"results_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        f"error: {flags[0]}: shows one run; without -m and with one value a key\n"
    )


@pytest.mark.parametrize("flag", ["--resolve", "--package=task"])
def test_an_option_of_another_does_not_come_to_nothing_alone(tmp_path, capsys, flag):
    assert main([flag, "steps=1", f"results_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"error: {flag}: of no effect without --cfg\n"
    assert main(["--cfg", "job", flag, "--nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: --nonsense: unknown option")
    assert main(["--cfg", "job", flag]) == 0
    assert "sigma" in capsys.readouterr().out


OVERRIDES_OF_CODE = [
    "optimizer._target_=touch.it",
    "optimizer._partial_=false",
    "schedule._target_=null",
    "task._recursive_=true",
    "task._args_=[1]",
    "task.start={_target_: touch.it}",
    "task.start=[{_target_: touch.it}, 1]",
    "task.start={a: [{_convert_: all}]}",
    "hydra.launcher._target_=touch.it",
    "hydra.launcher.additional_parameters={a: {_target_: touch.it}}",
]


@pytest.mark.parametrize("override", OVERRIDES_OF_CODE)
@pytest.mark.parametrize("way", [[], ["-m"], ["-m", "experiment=uv_plane"], ["--cfg", "job"]])
def test_an_override_does_not_say_what_is_built(tmp_path, capsys, way, override):
    for value in [override, override + ",1"] if way == ["-m"] else [override]:
        assert main([*way, value, f"results_dir={tmp_path}"]) == 2
        error = capsys.readouterr().err
        assert re.fullmatch(r"error: .+: _\w+_ is set in the files of conf, never by an override\n|"
                            r"error: hydra\.launcher\..+: one value expected\n", error)  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", [[], ["-m"]])
def test_nothing_within_a_value_is_built(tmp_path, capsys, monkeypatch, way):
    monkeypatch.setenv("X", f"{{_target_: os.mkdir, path: {tmp_path}/it}}")
    start = 'task.start="${oc.decode:${oc.env:X}}"'
    assert main([*way, start, "steps=1", f"results_dir={tmp_path / 'results'}"]) == 2 - len(way)
    assert "task.start={" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not (tmp_path / "it").exists() and not list(tmp_path.rglob("*.jsonl"))


BAD_ARGUMENTS = {
    "task.sigma=0.08": "task.sigma=0.08: a list of different finite levels >= 0 expected",
    "task.sigma=[a]": "task.sigma=['a']: a list of different finite levels >= 0 expected",
    "task.sigma=[0.1,0.1]": "task.sigma=[0.1, 0.1]: a list of different finite levels >= 0 expected",
    "task.start=[0]": "task.start=[0]: a list of two finite coordinates expected",
    "task.tol=-1": "task.tol=-1: a finite number > 0 expected",
    "task.path=5": "task.path=5: true or false expected",
    "optimizer.amsgrad=5": "optimizer.amsgrad=5: true or false expected",
    "+foo=1": "'+foo=1': keys are changed, not added or removed",
    "~optimizer.lr": "'~optimizer.lr': keys are changed",
    "scale=quick": "scale=quick: of no effect without experiment=E",
    "seeds=[1,2]": "seed=5: of no effect beside seeds=[1,2]",
    "hydra/launcher=joblib": "hydra/launcher=joblib: of no effect without -m",
    "hydra.launcher.n_jobs=2": "hydra.launcher.n_jobs=2: of no effect without -m",
    "lr=1": "lr: unknown key of lr=1; did you mean optimizer.lr?",
    "optimizer.maximise=true": "optimizer.maximise: unknown key; one of optimizer.lr, ",
}


@pytest.mark.parametrize("override", BAD_ARGUMENTS)
def test_a_bad_argument_is_one_line_with_the_name_on_the_command_line(tmp_path, capsys, override):
    assert main(["steps=1", "seed=5", f"results_dir={tmp_path}", override]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {BAD_ARGUMENTS[override]}") and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_task_without_replicas_is_told_what_it_lacks(tmp_path, capsys, monkeypatch):
    from tasks.rosenbrock import Rosenbrock

    make = Rosenbrock.__init__

    def forgetful(self, **arguments):
        make(self, **arguments)
        del self.replicas

    monkeypatch.setattr(Rosenbrock, "__init__", forgetful)
    assert main(["steps=1", f"results_dir={tmp_path}"]) == 2
    assert "must set self.replicas" in capsys.readouterr().err


def test_a_damaged_record_is_not_passed_off_as_whole(tmp_path, capsys):
    arguments = ["optimizer=adam", "optimizer.lr=1e-2", *small(tmp_path)[3:]]
    assert main(arguments) == 0
    (job,) = plan(arguments)
    path = job.config.folder / record.FILE_NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "garbage", *lines[3:]]) + "\n")
    capsys.readouterr()
    assert main(arguments) == 1
    assert "cannot be read: 3; force=true runs it again" in capsys.readouterr().err
    assert main([*arguments, "force=true"]) == 0
    assert path.read_text().count("garbage") == 0


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("lr: 0.1\n_partial_: true\n", "conf/optimizer/mine.yaml: _target_: the class expected"),
        ("_target_: laprop.laprop\n_partial_: true\n", "optimizer=mine: .*'laprop.laprop'"),
        ("_target_: torch.optim.SGD\nlr: 0.1\n", "conf/optimizer/mine.yaml: _partial_: true expected"),
        ("_target_: torch.optim.SGD\n_partial_: true\nlr: 0.1\nfoo: 1\n",
         "optimizer=mine: .*unexpected keyword argument 'foo'"),
    ],
)  # fmt: skip
def test_a_wrong_yaml_of_an_optimizer_is_named(tmp_path, monkeypatch, capsys, yaml, message):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "optimizer" / "mine.yaml").write_text(yaml)
    for module in (config_module, run_module):
        monkeypatch.setattr(module, "CONF", tmp_path / "conf")
    assert main(["task=rosenbrock", "optimizer=mine", "steps=1", f"results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert re.match(f"error: {message}", error) and error.count("\n") == 1


def test_results_dir_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for mode in ([], ["-m"]):
        assert main([*mode, "steps=1", f"results_dir={tmp_path / 'file' / 'x'}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: results_dir=") and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == ""


def test_a_launcher_that_there_is_not_is_refused_with_nothing_to_do(tmp_path, capsys):
    assert main(["-m", *small(tmp_path)]) == 0
    assert main(["-m", *small(tmp_path, "hydra/launcher=jobblib")]) == 2
    assert "jobblib" in capsys.readouterr().err


NOT_SWEPT = {
    "optimizer=glob(zz*)": "optimizer=glob(zz*): no optimizer is named so; one of adabound, adam,",
    "optimizer.lr=glob(*)": "optimizer.lr=glob(*): glob() chooses among the options of experiment,",
    "optimizer.lr=range(1,1)": "optimizer.lr=range(1,1): a range with a number in it expected",
    "optimizer.lr=range(1,2,0)": "'optimizer.lr=range(1,2,0)': not understood (range() arg 3 must",
    "optimizer.lr=range(1.0,2,0)": "'optimizer.lr=range(1.0,2,0)': not understood (Invalid range",
    "optimizer.betas={a:1}": "optimizer.betas={a:1}: a value or a list of values expected",
    "optimizer.betas=[0.9,0.9],{a:1}": "optimizer.betas={a:1}: a value or a list of values expected",
    "task.sigma=[{a:1}]": "task.sigma=[{a:1}]: a value or a list of values expected",
    "optimizer.lr='${'": "'optimizer.lr='${'': not understood (no viable alternative at input '${')",
    "optimizer.lr=${nothere}": "optimizer.lr: Interpolation key 'nothere' not found",
    "scale=${nothere}": "scale=${nothere}: of no effect without experiment=E",
    "optimizer@task=adam": "'optimizer@task=adam': not understood - key=value expected",
    "=1": "'=1': not understood - key=value expected",
    "hydra=1": "hydra=1: of Hydra's keys hydra/launcher or hydra.launcher.… expected",
    "hydra.launcher=1": "hydra.launcher=1: of Hydra's keys hydra/launcher or hydra.launcher.… exp",
    "hydra.mode=RUN": "hydra.mode=RUN: of Hydra's keys hydra/launcher or hydra.launcher.… expected",
    "hydra/launcher=null": "hydra/launcher=null: one name expected",
    "hydra/launcher=joblib,basic": "hydra/launcher=joblib,basic: one name expected",
    "hydra.launcher.n_jobs=1,2": "hydra.launcher.n_jobs=1,2: one value expected",
    "results_dir=a,b": "results_dir=a,b: one folder expected",
}


@pytest.mark.parametrize("override", NOT_SWEPT)
def test_what_cannot_be_swept_is_one_line(tmp_path, capsys, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    where = [] if override.startswith("results_dir") else [f"results_dir={tmp_path}"]
    assert main(["-m", "steps=1", *where, override]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {NOT_SWEPT[override]}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_glob_stands_for_the_options_that_it_matches(tmp_path, capsys):
    def names(value, *more):
        return [job.config.names["optimizer"] for job in plan([f"optimizer={value}", *more])]

    assert names("glob(ada*)") == ["adabound", "adam", "adamw"]
    assert names("glob(ada*,exclude=adam)") == ["adabound", "adamw"]
    assert names("glob(*)") == config_module.groups()["optimizer"]
    swept = names("glob(ada*)", "experiment=rosenbrock_noise")  # of those that it sweeps
    assert set(swept) == {"adabound", "adam"}
    assert main(["-m", "experiment=rosenbrock_noise", "optimizer=glob(adamw)"]) == 2
    assert "error: optimizer=adamw: the experiment sweeps optimizer" in capsys.readouterr().err
    assert main(["optimizer=glob(adam)", f"results_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        "error: optimizer=glob(adam): several values are a sweep; add -m\n"
    )


@pytest.mark.parametrize("trials", ["abc", "0", "-3", "1.5", "5000", "[1]", "null"])
def test_trials_that_there_cannot_be_are_refused(tmp_path, capsys, trials):
    sweep = ["-m", "experiment=tuning_rosenbrock", "scale=smoke", f"results_dir={tmp_path}"]
    assert main([*sweep, f"scales.smoke.trials={trials}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: scales.smoke.trials=") and error.count("\n") == 1
    assert error.endswith(": a whole number from 1 to 4,096 expected\n")


@pytest.mark.parametrize(
    ("override", "first", "sweeps", "lacking", "having"),
    [
        ("optimizer.betas=[0.9,0.9]", "signsgd", "path_no_betas, tuned_no_betas", "signsgd",
         "laprop,adam,amsgrad,radam,adabound"),
        ("optimizer.fused=false", "radam", "common, path, path_no_betas, tuned, tuned_no_betas",
         "radam,adabound,signsgd", "laprop,adam,amsgrad"),
    ],
)  # fmt: skip
def test_a_key_that_only_some_sweeps_have_is_told_with_those_that_lack_it(
    tmp_path, capsys, override, first, sweeps, lacking, having
):
    noise = ["experiment=rosenbrock_noise", "scale=smoke", f"results_dir={tmp_path}"]
    assert main(["-m", *noise, override]) == 2
    key = override.partition("=")[0]
    assert capsys.readouterr().err == (
        f"error: {key}: unknown key of optimizer={first}; sweeps {sweeps} of "
        f"experiment=rosenbrock_noise are without it, for optimizer={lacking}; "
        f"optimizer={having} narrows to those with it\n"
    )
    assert plan([*noise, override, f"optimizer={having}"])  # the advice is right
    assert main(["-m", *noise, "optimizer.bets=1"]) == 2
    assert "unknown key of optimizer=laprop; did you mean optimizer.b" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("override", ["sweeps=1", "sweeps={}", "sweeps.common.optimizer=[adam]"])
def test_the_sweeps_of_an_experiment_are_not_silently_left_as_they_are(tmp_path, capsys, override):
    sweep = ["-m", "experiment=rosenbrock_noise", "scale=smoke", f"results_dir={tmp_path}"]
    assert main([*sweep, override]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {override}: sweeps are set in conf/experiment")
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["experiment=uv_plane,interpolation"],
            "one experiment expected; python -m scripts.reprod",
        ),
        (
            ["experiment=rosenbrock_noise", "scale=smoke", "seeds=3"],
            "one of 1 expected; other values: scales.smoke.s",
        ),
        (["experiment=rosenbrock_noise", "optimizer=sgd"], "; optimizers=+sgd adds to those"),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs=0: a number of",
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(tmp_path, capsys, arguments, message):
    assert main(["-m", f"results_dir={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.jsonl"))


def test_what_all_runs_of_a_sweep_are_refused_for_is_told_once(tmp_path, capsys):
    sweep = ["-m", "experiment=rosenbrock_noise", "scale=smoke", f"results_dir={tmp_path}"]
    assert main([*sweep, "task.tol=-2", "tracking=disabled"]) == 1
    said = capsys.readouterr()
    assert (
        said.err
        == "rosenbrock laprop lr=0.01 and 35 more: task.tol=-2: a finite number > 0 expected\n"
    )
    assert "36 runs: 36 missing" in said.out and "missing: 31 more" in said.out
    assert len(said.out.splitlines()) == 8


def test_status_names_a_folder_that_there_is_not(tmp_path, capsys):
    assert status.main(["experiment=uv_plane", f"results_dir={tmp_path / 'none'}"]) == 2
    assert capsys.readouterr().err == f"error: results_dir={tmp_path / 'none'}: no such folder\n"


def test_a_record_that_is_none_is_told_and_made_anew(tmp_path, capsys):
    (job,) = plan(arguments := ["optimizer=adam", "optimizer.lr=1e-2", *small(tmp_path)[3:]])
    job.config.folder.mkdir(parents=True)
    (job.config.folder / record.FILE_NAME).write_bytes(b"garbage\n" * 9)
    assert main(arguments) == 0
    assert "not a record, or damaged; the run starts again" in capsys.readouterr().err
    assert b"garbage" not in (job.config.folder / record.FILE_NAME).read_bytes()
