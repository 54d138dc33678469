"""A sweep on a real Slurm of two nodes, all of it on this machine and on loopback."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from runners import cluster, config, record, run
from runners.collect import to_parquet
from runners.config import ROOT
from runners.conftest import collect
from runners.plan import plan
from runners.sweep import state

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
needs_slurm = pytest.mark.skipif(
    not all(shutil.which(program, path=PATH) for program in PROGRAMS),
    reason="Slurm is not installed here: apt-get install --no-install-recommends slurm-wlm munge",
)
# Two nodes of one core. cred_expire: a job that was put back waits for so long. The two
# No...AddrAny: nothing listens beyond 127.0.0.1.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SrunPortRange=16820-16899
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName=a NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=b NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=a,b Default=YES MaxTime=60
"""
# A Rosenbrock function that is told what to do: {seed}.hold makes its steps slow until its job was
# put back into the queue, {seed}.raise makes it raise; it tells that it got there, and every call.
WAITING = """
    import os, time
    from pathlib import Path
    from tasks.rosenbrock import Rosenbrock

    class Waiting(Rosenbrock):
        def loss(self):
            control, seed = Path(os.environ["CONTROL"]), self.replicas[0]["seed"]
            with (control / f"{seed}.calls").open("a") as file:
                file.write(".")
            if self.step >= 30:
                (control / f"{seed}.there").touch()
                if (control / f"{seed}.raise").exists():
                    raise RuntimeError("the disk melted")
                restarted = "SLURM_RESTART_COUNT" in os.environ
                if (control / f"{seed}.hold").exists() and not restarted:
                    time.sleep(0.1)
            return super().loss()
"""
SWEEP = ["task=waiting", "optimizer=laprop", "seed=" + ",".join(map(str, range(12))),
         "steps=400", "eval_every=100", "checkpoint_every=50", "tracking=disabled"]  # fmt: skip
ON_SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.runs_per_job=3",
            "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20",
            "hydra.launcher.cpus_per_task=1"]  # fmt: skip


@pytest.fixture
def slurm(monkeypatch):
    folder = Path(tempfile.mkdtemp())  # not in pytest's, which munge does not take: it is private
    folder.chmod(0o755)
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    (folder / "state").mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for free in (one, two, three):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (one, two, three)]
    host = socket.gethostname().partition(".")[0]
    text = SLURM_CONF.format(host=host, user=user, folder=folder, ports=ports)
    (folder / "slurm.conf").write_text(text)
    munge = {"key-file": "key", "socket": "munge.socket", "pid-file": "munged.pid",
             "log-file": "munged.log", "seed-file": "seed"}  # fmt: skip
    try:
        subprocess.run(["munged", *(f"--{k}={folder / v}" for k, v in munge.items())], check=True)
        subprocess.run(["slurmctld", "-c"], check=True)
        for node in "ab":
            subprocess.run(["slurmd", "-N", node], check=True)
        until(lambda: ask("sinfo", "-h", "-o", "%t %D") == "idle 2", "two idle nodes", seconds=20)
        yield folder
    finally:
        if (folder / "slurmctld.pid").exists():
            ask("scancel", "--full", "--signal=KILL", f"--user={user}")
        for name in ("slurmd-a.pid", "slurmd-b.pid", "slurmctld.pid", "munged.pid"):
            if (folder / name).exists():
                os.kill(int((folder / name).read_text()), signal.SIGTERM)
        until(lambda: not list(folder.glob("*.pid")), "the daemons to end", seconds=20)
        shutil.rmtree(folder)


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def until(condition, what, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {seconds} s for {what}"
        time.sleep(0.1)


def table(overrides):
    return to_parquet(collect(plan(overrides), "waiting"))


@needs_slurm
def test_a_sweep_on_slurm_survives_what_happens_on_a_cluster(slurm, tmp_path, monkeypatch, capfd):
    copy, modules, control = (tmp_path / name for name in ("copy", "modules", "control"))
    for folder in ("conf", "laprop", "runners", "tasks"):
        shutil.copytree(ROOT / folder, copy / folder)
    modules.mkdir()
    control.mkdir()
    task = (ROOT / "conf" / "task" / "rosenbrock.yaml").read_text()
    task = task.replace("tasks.rosenbrock.Rosenbrock", "waiting.Waiting")
    (copy / "conf" / "task" / "waiting.yaml").write_text(task)
    (modules / "waiting.py").write_text(textwrap.dedent(WAITING))
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.setenv("CONTROL", str(control))
    for module in (config, run):
        monkeypatch.setattr(module, "CONF", copy / "conf")
    results = tmp_path / "slurm"
    overrides = [*SWEEP, f"results_dir={results}"]
    jobs = plan(overrides)
    command = [sys.executable, "-m", "runners.run", "-m", *overrides, *ON_SLURM]
    for name in ("1.raise", "2.hold", "5.hold", "8.hold"):
        (control / name).touch()

    def there(seed):
        return lambda: (control / f"{seed}.there").exists()

    driver = subprocess.Popen(command, cwd=copy, stdout=(tmp_path / "out").open("w"))
    try:
        # Seed 1 raises. Its job goes on, and is cancelled in the middle of seed 2.
        until(there(2), "seed 2")
        (array,) = (results / cluster.SUBMITTED).glob("*.json")
        array = array.stem
        ask("scancel", f"{array}_0")
        until(lambda: state(jobs[2].config) == "interrupted", "seed 2 to save")
        assert state(jobs[1].config) == "failed"
        # until then Slurm, and so the sweep, still counts the two as in the queue
        until(lambda: f"{array}_0" not in ask("squeue", "-h", "-r", "-o", "%i").split(), "it to go")
        # The shell is closed. The same command, given again, does the two that are left, and waits
        # for the others, which are in the queue or at work. The jobs that it submits have more time.
        driver.kill()
        driver.wait()
        for name in ("1.raise", "2.hold"):
            (control / name).unlink()
        again = [*command, "hydra.launcher.timeout_min=5"]
        driver = subprocess.Popen(again, cwd=copy, stdout=(tmp_path / "out").open("w"))
        # The node of the job with seed 8 is drained, and dies.
        until(there(8), "seed 8")
        node = ask("squeue", "-h", "-o", "%N", f"--jobs={array}_2")
        for change in ("drain", "down"):
            ask("scontrol", "update", f"nodename={node}", f"state={change}", "reason=test")
        until(lambda: state(jobs[8].config) == "interrupted", "seed 8 to die")
        ask("scontrol", "update", f"nodename={node}", "state=resume")
        # The job with seed 5, the second of the array, comes to its time limit, saves, and is put
        # back into the queue, as is the third, whose node died.
        assert driver.wait(timeout=120) == 0, (tmp_path / "out").read_text()
        for job in (1, 2):
            shown = ask("scontrol", "show", "job", f"{array}_{job}")
            restarts = re.search(r"Restarts=(\d+)", shown)
            assert restarts and int(restarts[1]) >= 1, shown
        said = next(results.glob(f".hydra/submitit/{array}_1/*_log.out")).read_text()
        assert "Job has timed out" in said, said
    finally:
        driver.kill()
        driver.wait()

    out = (tmp_path / "out").read_text()
    counted = re.search(r"(\d+) to do\n(\d+) of them are running or in a queue", out)
    assert "12 runs: 12 completed" in out and counted, out
    assert int(counted[1]) - int(counted[2]) == 2, out
    calls = {seed: (control / f"{seed}.calls").stat().st_size for seed in range(12)}
    # saved on a signal: no step lost, none done twice; killed: from the last checkpoint on
    assert calls[2] == calls[5] == 400 and 400 <= calls[8] <= 450
    assert calls[1] == 400 + 31  # failed at step 30, before the first checkpoint
    digests = {record.read_first_line(job.config.folder)["code"]["digest"] for job in jobs}
    assert digests == {path.name for path in (results / ".code").iterdir()}
    assert len(list((results / "runs").iterdir())) == 12

    for hold in control.glob("*.hold"):
        hold.unlink()
    local = [*SWEEP, f"results_dir={tmp_path / 'local'}"]
    command = [sys.executable, "-m", "runners.run", "-m", *local]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    assert table(overrides) == table(local)
