import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hydra.core.global_hydra import GlobalHydra

from runners import record, status, tracking
from runners.collect import read_all, to_parquet
from runners.config import ROOT
from runners.conftest import collect
from runners.plan import plan
from runners.run import main, run
from runners.sweep import state

SMALL = ["task=rosenbrock", "optimizer=adam,laprop", "optimizer.lr=1e-3,1e-2", "steps=120",
         "seeds=2", "eval_every=40", "checkpoint_every=7", "tracking=disabled"]  # fmt: skip


@pytest.fixture(autouse=True)
def _hydra_left_clean():
    yield
    assert not GlobalHydra.instance().is_initialized()


def small(tmp_path, *more):
    return [*SMALL, f"results_dir={tmp_path}", *more]


def table(jobs):
    return to_parquet(collect(jobs, "small"))


def test_sweep_runs_what_is_missing_and_only_that(tmp_path, capsys):
    assert main(["-m", *small(tmp_path)]) == 0
    jobs = plan(small(tmp_path))
    before = table(jobs)
    times = {
        job.config.key: (job.config.folder / record.FILE_NAME).stat().st_mtime_ns for job in jobs
    }
    shutil.rmtree(jobs[2].config.folder)
    capsys.readouterr()
    assert main(["-m", *small(tmp_path)]) == 0
    assert "4 runs, 3 finished before, 1 to do" in capsys.readouterr().out
    assert table(jobs) == before
    for place, job in enumerate(jobs):
        same = (job.config.folder / record.FILE_NAME).stat().st_mtime_ns == times[job.config.key]
        assert same == (place != 2)


def test_a_finished_run_is_skipped_within_50_ms(tmp_path):
    overrides = ["task=rosenbrock", "optimizer=adam", "steps=1", "tracking=disabled",
                 f"results_dir={tmp_path}", "optimizer.lr=" + ",".join(f"{i}e-4" for i in range(1, 41))]  # fmt: skip
    jobs = plan(overrides)
    (jobs[0].config.folder.parent).mkdir()
    run(jobs[0].config)
    for job in jobs[1:]:
        shutil.copytree(jobs[0].config.folder, job.config.folder)
    start = time.perf_counter()
    assert main(["-m", *overrides]) == 0
    assert (time.perf_counter() - start) / len(jobs) < 0.05


def test_a_crash_is_recorded_told_and_run_again_and_the_others_survive(
    tmp_path, capsys, monkeypatch
):
    from tasks.rosenbrock import Rosenbrock

    evaluate = Rosenbrock.evaluate

    def crash(self):
        # the second evaluation of the runs at the larger lr only
        if self.step == 40 and self.xy.abs().max() > 0.05:
            raise RuntimeError("the disk melted")
        return evaluate(self)

    monkeypatch.setattr(Rosenbrock, "evaluate", crash)
    assert main(["-m", *small(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "2 completed, 2 failed" in out and "RuntimeError: the disk melted" in out

    assert status.main(small(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "in crash" in out and "RuntimeError: the disk melted" in out
    jobs = plan(small(tmp_path))
    assert read_all(jobs).count(None) == 2

    monkeypatch.undo()
    assert main(["-m", *small(tmp_path)]) == 0
    assert "4 runs, 2 finished before, 2 to do" in capsys.readouterr().out
    assert status.main(small(tmp_path)) == 0
    other = tmp_path / "undisturbed"
    assert main(["-m", *small(other)]) == 0
    assert table(jobs) == table(plan(small(other)))


def test_killed_at_random_moments_and_restarted_the_table_is_the_same(tmp_path):
    """Ten SIGKILLs; forks of a process that has imported torch, so that kills fall into the runs.

    How long to wait comes from the undisturbed sweep: ten waits of at most a tenth of its time
    cannot finish it, however fast the machine is.
    """
    driver = textwrap.dedent("""
        import os, random, signal, sys, time
        import torch._dynamo, pandas
        from runners import checkpoint, loop, progress, provenance, tracking
        from runners.run import main
        torch.set_num_threads(1)
        whole, killed, *overrides = sys.argv[1:]
        def attempt(folder, seconds=None):
            child = os.fork()
            if child == 0:
                os._exit(main(["-m", f"results_dir={folder}", *overrides]))
            if seconds is not None:
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        start = time.monotonic()
        assert attempt(whole) == 0
        tenth = (time.monotonic() - start) / 10
        chance = random.Random(1)
        for _ in range(10):
            assert attempt(killed, chance.uniform(0.3, 0.95) * tenth) == signal.SIGKILL
        sys.exit(os.waitstatus_to_exitcode(attempt(killed)))
    """)
    sizes = ["steps=3000", "checkpoint_every=50", "eval_every=100"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(
        [sys.executable, "-c", driver, whole, killed, *SMALL, *sizes],
        cwd=ROOT, check=True, timeout=300,
    )  # fmt: skip
    assert table(plan(small(killed, *sizes))) == table(plan(small(whole, *sizes)))
    for job in plan(small(killed, *sizes)):
        assert not list(job.config.folder.glob("checkpoint*"))


def test_interrupt_saves_and_goes_on_from_there(tmp_path, monkeypatch):
    (job,) = plan(small(tmp_path, "optimizer=laprop", "optimizer.lr=1e-2"))
    from tasks.rosenbrock import Rosenbrock

    loss, seen = Rosenbrock.loss, []

    def interrupted(self):
        seen.append(self.step)
        if self.step == 31:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    monkeypatch.setattr(Rosenbrock, "loss", interrupted)
    assert run(job.config) == "interrupted"
    assert state(job.config) == "interrupted"
    monkeypatch.setattr(Rosenbrock, "loss", lambda self: seen.append(self.step) or loss(self))
    assert run(job.config) == "completed"
    assert seen == list(range(120))  # no step lost, none done twice
    (other,) = plan(small(tmp_path / "whole", "optimizer=laprop", "optimizer.lr=1e-2"))
    monkeypatch.undo()
    run(other.config)
    assert table([job]) == table([other])


def test_a_second_ctrl_c_is_immediate_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    arguments = [*SMALL[:1], "optimizer=laprop", "optimizer.lr=1e-2", *SMALL[3:]]
    arguments, whole = ([*arguments, f"results_dir={tmp_path / name}"] for name in ("a", "b"))
    (job,) = plan(arguments)
    from tasks.rosenbrock import Rosenbrock

    loss, survived, steps = Rosenbrock.loss, [], []

    def interrupted(self):
        if self.step == 31:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
                signal.raise_signal(number)
                survived.append(number)
        return loss(self)

    told, finish = [], tracking.NoTracker.finish
    monkeypatch.setattr(tracking.NoTracker, "finish", lambda self, status: told.append(status))
    monkeypatch.setattr(Rosenbrock, "loss", interrupted)
    assert main(arguments) == 130 and told == [record.INTERRUPTED]
    monkeypatch.setattr(tracking.NoTracker, "finish", finish)
    assert survived == [signal.SIGTERM, signal.SIGINT]  # each asks for a stop, once
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"
    assert state(job.config) == "interrupted"
    monkeypatch.setattr(Rosenbrock, "loss", lambda self: steps.append(self.step) or loss(self))
    assert main(arguments) == 0
    assert steps == list(range(28, 120))  # from the last checkpoint, for nothing was saved
    assert "rosenbrock laprop lr=0.01: goes on from step 28\n" in capsys.readouterr().err
    assert main(whole) == 0
    assert table([job]) == table(plan(whole))


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "laprop", "sgd"])
def test_the_fused_form_takes_the_same_path_and_goes_on_from_a_checkpoint(
    tmp_path, monkeypatch, name
):
    from tasks.rosenbrock import Rosenbrock

    def job(folder, fused):
        lr = "1e-4" if name == "sgd" else "1e-2"
        overrides = [f"optimizer={name}", f"optimizer.lr={lr}", f"optimizer.fused={fused}"]
        return plan([*SMALL[:1], *overrides, *SMALL[3:], f"results_dir={tmp_path / folder}"])[0]

    def distances(job):
        return [row["distance"] for row in record.read_record(job.config.folder).rows]

    plain, whole, stopped = job("plain", "false"), job("whole", "true"), job("stopped", "true")
    assert run(plain.config) == run(whole.config) == "completed"
    assert distances(whole)[-1] == pytest.approx(distances(plain)[-1], rel=1e-6)
    assert distances(whole)[-1] != pytest.approx(distances(whole)[0], rel=1e-3)  # it moved
    loss = Rosenbrock.loss

    def interrupted(self):
        if self.step == 31:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    monkeypatch.setattr(Rosenbrock, "loss", interrupted)
    assert run(stopped.config) == "interrupted"
    monkeypatch.undo()
    assert run(stopped.config) == "completed"
    assert distances(stopped) == distances(whole)


def test_files_for_people_are_there_after_an_evaluation_at_a_stop_and_at_the_end(
    tmp_path, monkeypatch, capsys
):
    from PIL import Image

    from tasks.rosenbrock import Rosenbrock

    loss, seen = Rosenbrock.loss, {}

    def picture(self):
        buffer = io.BytesIO()
        Image.new("L", (4, 3), self.step).save(buffer, "png")
        return {"state.png": buffer.getvalue(), "state.txt": str(self.step).encode()}

    def interrupted(self):
        file = job.config.folder / "state.txt"
        seen[self.step] = file.read_text() if file.exists() else None
        if self.step == 31:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self)

    arguments = ["task=rosenbrock", "optimizer=adam", "steps=50", "eval_every=20",
                 "checkpoint_every=15", f"results_dir={tmp_path}"]  # fmt: skip
    (job,) = plan(arguments)
    monkeypatch.setattr(Rosenbrock, "artifacts", picture)
    monkeypatch.setattr(Rosenbrock, "loss", interrupted)
    assert main(arguments) == 130
    assert (seen[0], seen[19], seen[20], seen[31]) == ("0", "0", "20", "20")
    assert (job.config.folder / "state.txt").read_text() == "32"  # the step ended, then it stopped
    assert main(arguments) == 0
    assert (job.config.folder / "state.txt").read_text() == "50"
    with Image.open(job.config.folder / "state.png") as image:
        assert image.getpixel((0, 0)) == 50
    assert capsys.readouterr().out.count(str(job.config.folder / "state.png")) == 2
    logged = [p for p in job.config.folder.rglob("wandb/offline-run-*/files/media/images/*")]
    assert [p.suffix for p in logged] == [".png", ".png"]  # one a session, of the image alone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_saves_and_then_goes_on_to_whoever_listened_before(tmp_path, monkeypatch, number):
    (job,) = plan(small(tmp_path, "optimizer=laprop", "optimizer.lr=1e-2"))
    from tasks.rosenbrock import Rosenbrock

    loss, heard = Rosenbrock.loss, []

    def warned(self):
        if self.step == 31:
            os.kill(os.getpid(), number)
        return loss(self)

    def listen(received, frame):  # as submitit does, which now puts the job back
        heard.append((received, state(job.config), (job.config.folder / "checkpoint.pt").exists()))

    monkeypatch.setattr(Rosenbrock, "loss", warned)
    before = signal.signal(number, listen)
    try:
        assert run(job.config) == "interrupted"
        assert signal.getsignal(number) is listen
    finally:
        signal.signal(number, before)
    assert heard == [(number, "interrupted", True)]
    assert record.read_last_line(job.config.folder) == {
        "status": "interrupted",
        "step": 32,
        "diverged": {},
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_too_late_for_one_run_of_a_sweep_stops_the_next(
    tmp_path, monkeypatch, capsys, number
):
    close, heard = record.RecordWriter.close, signal.getsignal(number)

    def warned(self, status, **details):
        monkeypatch.setattr(record.RecordWriter, "close", close)
        os.kill(os.getpid(), number)
        close(self, status, **details)

    monkeypatch.setattr(record.RecordWriter, "close", warned)
    assert main(["-m", *small(tmp_path)]) == 130
    assert signal.getsignal(number) is heard
    states = [state(job.config) for job in plan(small(tmp_path))]
    assert states.count("completed") == 1 and states.count("missing") >= 2
    assert "goes on from here" in capsys.readouterr().err
    assert main(["-m", *small(tmp_path)]) == 0


def test_a_run_that_another_process_holds_is_not_run_twice(tmp_path):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    job.config.folder.mkdir(parents=True)
    holder = (
        "import sys, time, pathlib; from runners.lease import hold\n"
        "with hold(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, job.config.folder], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        assert run(job.config) == state(job.config) == "running"
        assert not (job.config.folder / record.FILE_NAME).exists()
    finally:
        process.kill()
        process.wait()
    assert run(job.config) == "completed"


def test_a_finished_record_without_its_first_line_is_run_again(tmp_path):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    run(job.config)
    before, file = table([job]), job.config.folder / record.FILE_NAME
    file.write_bytes(b"x" + file.read_bytes())
    assert state(job.config) != record.COMPLETED
    assert run(job.config) == record.COMPLETED and table([job]) == before


def test_results_of_other_code_are_told_and_never_gone_on_with(tmp_path, capsys, monkeypatch):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    overrides = ["optimizer=adam", "optimizer.lr=1e-2", *small(tmp_path)[3:]]
    run(job.config)
    assert main(overrides) == 0
    assert "completed before" in capsys.readouterr().out
    monkeypatch.setattr("runners.provenance.code_digest", lambda: "other")
    assert main(overrides) == 0
    assert "made by other code" in capsys.readouterr().err
    assert main(["-m", *overrides]) == 0
    assert "1 of the finished were made by other code" in capsys.readouterr().err
    assert main([*overrides, "force=true"]) == 0
    caught = capsys.readouterr()
    assert not caught.err and "step 120 (medians of 2 replicas): distance 0." in caught.out

    from tasks.rosenbrock import Rosenbrock

    with monkeypatch.context() as patch:
        patch.setattr(Rosenbrock, "evaluate", lambda self: 1 / (self.step - 40) and {})
        assert main([*overrides, "force=true"]) == 1
    monkeypatch.undo()  # the checkpoint is of the other code now
    capsys.readouterr()
    assert main(overrides) == 0
    assert "checkpoint of other code" in capsys.readouterr().err
    (other,) = plan(small(tmp_path / "whole", "optimizer=adam", "optimizer.lr=1e-2"))
    run(other.config)
    assert table([job]) == table([other])


def test_subnormal_numbers_are_flushed_in_every_thread_of_a_run(tmp_path):
    program = (
        "import sys, torch\n"
        "from runners.run import main\n"
        "torch.set_num_threads(2)\n"
        "assert main(sys.argv[1:]) == 0\n"
        "tiny = torch.full((1 << 22,), 1e-39)\n"
        "assert (tiny * 1.0 == 0).all() and (tiny != 0).sum() == 0\n"
    )
    arguments = ["steps=1", "tracking=disabled", f"results_dir={tmp_path}"]
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, check=True, timeout=120)


def test_the_end_is_told_for_each_kind_of_replica(tmp_path, capsys):
    """Noise levels are not thrown together; seeds are."""
    arguments = ["optimizer=adam", "optimizer.lr=1e-2", "steps=300", f"results_dir={tmp_path}"]
    assert main([*arguments, "seeds=3", "task.sigma=[0,0.1]"]) == 0
    *_, still, noisy = capsys.readouterr().out.splitlines()
    found = record.read_record(next(tmp_path.glob("runs/*")))
    assert found is not None
    row = found.rows[-1]["distance"]
    for line, level, some in ((still, "0", row[:3]), (noisy, "0.1", row[3:])):
        start = f"step 300, sigma={level} (medians of 3 replicas): distance "
        assert line.startswith(f"{start}{sorted(some)[1]:,.6g}, ")
    many = ",".join(f"{0.01 * i:g}" for i in range(11))
    assert main([*arguments, "seeds=1", f"task.sigma=[{many}]"]) == 0
    assert "step 300 (medians of 11 replicas): " in capsys.readouterr().out.splitlines()[-1]


def test_joblib_gives_the_same_table_and_a_bad_argument_is_told(tmp_path, capfd):
    assert main(["-m", *small(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")]) == 0
    assert main(["-m", *small(tmp_path / "basic")]) == 0
    assert table(plan(small(tmp_path))) == table(plan(small(tmp_path / "basic")))
    assert not (ROOT / "multirun").exists()
    capfd.readouterr()
    bad = ["optimizer=adabound", "optimizer.gamma=0.5,-1", *small(tmp_path)[3:]]
    assert main(["-m", *bad]) == 1
    caught = capfd.readouterr()
    assert caught.err.count("gamma must be") == 1 and "1 missing" in caught.out


def test_provenance_says_where_the_numbers_come_from(tmp_path):
    (job,) = plan(small(tmp_path, "optimizer=adam", "optimizer.lr=1e-2"))
    run(job.config)
    first = json.loads((job.config.folder / record.FILE_NAME).open().readline())
    assert first["key"] == job.config.key == job.config.folder.name
    assert first["values"]["optimizer"]["lr"] == 0.01
    assert first["packages"]["torch"] and first["code"]["digest"] and first["hardware"]["device"]
    assert first["replicas"] == [{"seed": 0, "sigma": 0.0}, {"seed": 1, "sigma": 0.0}]


def test_watching_waits_for_the_first_run_to_begin(monkeypatch, capsys):
    seen = iter([["missing"] * 2, ["missing"] * 2, ["running", "missing"], ["completed", "failed"]])
    monkeypatch.setattr(status, "look", lambda jobs: (next(seen), {}))
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.0)
    status._watch([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "missing 2", "missing 1, running 1", "completed 1, failed 1",
    ]  # fmt: skip
