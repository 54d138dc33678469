import subprocess

from runners import sync
from runners.lease import hold
from runners.plan import plan

ARGUMENTS = ["task=rosenbrock", "optimizer=adam,laprop,sgd"]


def sessions(tmp_path):
    """A run with two sessions, having gone on once, two with one."""
    overrides = [*ARGUMENTS, f"results_dir={tmp_path}"]
    for number, job in enumerate(plan(overrides)):
        for part in range(2 if number == 0 else 1):
            folder = job.config.folder / "wandb" / f"offline-run-2026010{part}-{job.config.key}"
            folder.mkdir(parents=True)
            (folder / f"run-{job.config.key}.wandb").write_text("x")
    return overrides


def wandb(monkeypatch, works):
    """In the place of `wandb sync`: marks what ``works``; returns the calls."""
    calls = []

    def call(command, check, capture_output, text):
        paths = command[command.index("-n") + 2 :]
        calls.append((command[command.index("-n") + 1], paths))
        for path in filter(works, paths):
            (file,) = path.glob("*.wandb")
            file.with_name(file.name + ".synced").touch()
        code = 0 if all(map(works, paths)) else 1
        return subprocess.CompletedProcess(command, code, "", "wandb: a\nwandb: b\nError: why\n")

    monkeypatch.setattr(subprocess, "run", call)
    return calls


def test_a_sweep_is_uploaded_at_once_and_what_is_uploaded_is_not_again(
    tmp_path, monkeypatch, capsys
):
    overrides = sessions(tmp_path)
    calls = wandb(monkeypatch, lambda path: "20260101" not in path.name)
    assert sync.main([*overrides, "at_once=3"]) == 1
    ((number, paths),) = calls
    assert number == "3" and len(paths) == 4
    caught = capsys.readouterr()
    assert "3 uploaded, 1 left" in caught.out and caught.err.count("not uploaded: ") == 1
    assert caught.err.startswith("Error: why\n") and "wandb: " not in caught.err
    calls = wandb(monkeypatch, lambda path: True)
    assert sync.main([f"results_dir={tmp_path}"]) == 0
    assert [len(paths) for _, paths in calls] == [1]
    assert sync.main(overrides) == 0 and len(calls) == 1


def test_a_run_at_work_waits_and_without_a_server_it_stops_early(tmp_path, monkeypatch, capsys):
    overrides = sessions(tmp_path)
    calls = wandb(monkeypatch, lambda path: False)
    monkeypatch.setattr(sync, "BATCH", 1)
    with hold(plan(overrides)[1].config.folder):
        assert sync.main(overrides) == 1
    assert "3 runs, 3 sessions to upload, 1 runs still at work" in capsys.readouterr().out
    assert len(calls) == 1
    assert sync.main([*overrides, "at_once=0"]) == 2
    assert "at_once=0: a whole number >= 1 expected" in capsys.readouterr().err


def test_a_sweep_that_was_not_run_is_no_success(tmp_path, capsys):
    sessions(tmp_path)
    assert sync.main(["task=deep_fc", f"results_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "none of its runs, 1 in all, is in " in error and error.count("\n") == 1
