"""A sweep whose workers and parent are killed at random, again and again.

The test does a few runs and kills; by hand, on any scale: python -m runners.chaos_test RUNS KILLS
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runners import record
from runners.collect import to_parquet
from runners.config import ROOT
from runners.conftest import collect
from runners.lease import is_held
from runners.plan import plan
from runners.run import main
from runners.sweep import state


def sweep_of(runs, folder):
    return ["task=rosenbrock", "optimizer=sgd", "optimizer.lr=1e-4", "seeds=2",
            "seed=" + ",".join(str(2 * i) for i in range(runs)), "steps=4000", "eval_every=100",
            "checkpoint_every=200", "tracking=disabled", f"results_dir={folder}"]  # fmt: skip


def processes(session):
    """Pids of a session, the dead ones not among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def chaos(runs, kills, folder, say=print):
    """Kill ``kills`` times while ``runs`` runs are swept; then let the sweep come to its end.

    Kills are spread over the whole sweep: each waits until a number of runs, random and growing
    from kill to kill, is finished, and then for a random time. Returns how many there were.
    """
    overrides = sweep_of(runs, folder / "killed")
    jobs = plan(overrides)
    command = [sys.executable, "-m", "runners.run", "-m", *overrides,
               "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # fmt: skip

    def start():
        return subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def count():
        return sum(record.read_status(job.config.folder) in record.FINISHED for job in jobs)

    chance, driver = random.Random(1), start()
    sessions = [driver.pid]
    # up to the last runs, which may be over before a kill
    after = [int((k + chance.random()) * max(1, runs - 3) / kills) for k in range(kills)]
    done = 0
    while done < kills:
        finished = count()
        if driver.poll() is not None:  # killed, or given up after a worker died: the same command
            if finished == runs:
                break
            driver = start()
            sessions.append(driver.pid)
        if finished < after[done] or not any(is_held(job.config.folder) for job in jobs):
            time.sleep(0.05)
            continue
        time.sleep(chance.uniform(0, 0.6))
        mine = [pid for pid in processes(driver.pid) if pid != driver.pid]
        parent = done % 2 == 1 if kills < 5 else chance.random() < 0.4
        victim = driver.pid if parent or not mine else chance.choice(mine)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
        driver.poll()
        done += 1
        who = "parent" if victim == driver.pid else "child"
        say(f"kill {done}: {who}, {count()} of {runs} finished")
        time.sleep(0.2)
    driver.wait()
    for again in range(1, 4):  # one re-issue; more where a last kill has taken its workers along
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        say(f"command given again, {again}: exit code {ended.returncode}, {count()} finished")
        if ended.returncode == 0:
            break
    for session in sessions:  # orphans that wait for work
        for pid in processes(session):
            os.kill(pid, signal.SIGKILL)

    assert [state(job.config) for job in jobs] == ["completed"] * runs
    folders = sorted(path.name for path in (folder / "killed" / "runs").iterdir())
    assert folders == sorted(job.config.key for job in jobs)  # nothing lost, nothing twice
    for job in jobs:
        found = record.read_record(job.config.folder)
        assert found and not found.damaged
        assert [row["step"] for row in found.rows] == list(range(0, 4001, 100))
        assert not list(job.config.folder.glob("checkpoint*"))
    whole = sweep_of(runs, folder / "whole")
    assert main(["-m", *whole]) == 0
    assert to_parquet(collect(jobs, "chaos")) == to_parquet(collect(plan(whole), "chaos"))
    return done


def test_workers_and_parent_killed_at_random_and_nothing_is_lost(tmp_path):
    assert chaos(8, 2, tmp_path) > 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(f"{chaos(int(sys.argv[1]), int(sys.argv[2]), Path(made))} kills survived")
