"""Runs as batch jobs, through submitit: ``hydra/launcher=submitit_slurm`` or ``submitit_local``.

Hydra's own submitit launcher stops waiting at the first job that was cancelled, hangs where Slurm
keeps no accounts, and knows one run a job. So its configuration is used here with submitit itself.
A job is told before it is killed (SIGUSR2 or SIGTERM): its runs save, and submitit, or Slurm, puts
it back into the queue, where it goes on in the same run directory. What was achieved is read from
the records, never from the queue.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.command import first_line
from runners.config import ConfigError, RunConfig
from runners.orphan import unless_orphaned
from runners.record import write_atomically
from runners.run import reason, run, stop_signals
from runners.snapshot import snapshot

LAUNCHERS = ("submitit_slurm", "submitit_local")
SUBMITTED = ".hydra/submitted"  # <id>.json: the keys of the runs of every job of an array
OF_THE_PACK = ("runs_per_job", "runs_at_once")
OF_BOTH = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name")
LARGEST_ARRAY = 1000  # Slurm's default MaxArraySize is 1001
POLL_SECONDS = 2.0
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
PATIENCE = 600.0  # seconds that a job which was told to stop waits for its end
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "TIMEOUT",
}  # fmt: skip
USUAL = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Cleaning")


@dataclass
class Pack:
    """The runs of one job: what submitit pickles, calls, and puts back into the queue.

    Attributes:
        configs: runs, in this order.
        at_once: how many at the same time, each in a process of its own.
        folder: where the sweep was started; relative paths mean the same there.
    """

    configs: list[RunConfig]
    at_once: int
    folder: Path

    def __call__(self) -> list[str]:
        """Do the runs; returns what tasks and optimizers said of arguments that they refuse."""
        os.chdir(self.folder)
        refused: list[str] = []
        with stop_signals() as stop:
            if self.at_once == 1:
                for config in self.configs:
                    if not stop():
                        refused += _run(config)
            else:
                refused += self._in_processes(stop)
            stopped = stop()
        # Here submitit has put the job back, if it was its signal. Slurm itself puts back a job
        # that it kills, but not one that ends before.
        end = time.monotonic() + PATIENCE
        while stopped and "SLURM_JOB_ID" in os.environ and time.monotonic() < end:
            time.sleep(1)
        return refused

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same; the state is in the run directories."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _in_processes(self, stop: Any) -> list[str]:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.at_once)))
        context = multiprocessing.get_context("spawn")
        # It starts multiprocessing's resource tracker, which inherits the mask: Slurm warns all
        # processes of a job, and the tracker would die of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
        answers = context.SimpleQueue()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
        # Each goes through all runs from another one on; who finds one taken or finished passes on,
        # so that a worker that dies takes only its present run along.
        starts = range(0, len(self.configs), -(-len(self.configs) // self.at_once))
        workers = [
            context.Process(target=_work, args=(self.configs[s:] + self.configs[:s], answers))
            for s in starts
        ]
        for worker in workers:
            worker.start()
        told, refused = False, []
        while any(worker.is_alive() for worker in workers) or not answers.empty():
            if stop() and not told:
                told = True
                for worker in workers:
                    worker.terminate()  # SIGTERM: it saves
            while not answers.empty():
                refused += answers.get()
            time.sleep(0.1)
        return list(dict.fromkeys(refused))


def _work(configs: list[RunConfig], answers: Any) -> None:
    with stop_signals() as stop:
        for config in configs:
            if not stop():
                answers.put(unless_orphaned(lambda config=config: _run(config)))


def _run(config: RunConfig) -> list[str]:
    try:
        run(config)
    except Exception as error:  # from before its record: those behind it are to run all the same
        if not isinstance(error, ConfigError):
            traceback.print_exc()
        return [f"{config.label}: {reason(error)}"]
    return []


def launch(name: str, settings: dict[str, Any], configs: Sequence[RunConfig]) -> None:
    """Submit ``configs`` as jobs and wait until the last has left the queue.

    ``name`` is one of `LAUNCHERS`, ``settings`` its configuration. Raises ConfigError where
    nothing can be submitted.
    """
    results_dir = Path(configs[0].values["results_dir"]).absolute()
    for key in (*OF_THE_PACK, "array_parallelism"):
        if not isinstance(settings[key], int) or settings[key] < 1:
            raise ConfigError(f"hydra.launcher.{key}={settings[key]}: a whole number >= 1 expected")
    minutes, delay = settings["timeout_min"], settings["signal_delay_s"]
    for key in ("timeout_min", "signal_delay_s"):
        if not isinstance(settings[key], int | float) or settings[key] <= 0:
            raise ConfigError(f"hydra.launcher.{key}={settings[key]}: a number > 0 expected")
    if delay >= 60 * minutes:  # no warning at all, or one at the start, again and again
        raise ConfigError(
            f"hydra.launcher.signal_delay_s={delay}: less than the time limit of a job expected, "
            f"timeout_min={minutes} is {60 * minutes:g} s"
        )
    size = settings["runs_per_job"]
    packs = [
        Pack(list(configs[at : at + size]), settings["runs_at_once"], Path.cwd())
        for at in range(0, len(configs), size)
    ]
    slurm = name == "submitit_slurm"
    largest = LARGEST_ARRAY if slurm else settings["array_parallelism"]
    chunks = [packs[at : at + largest] for at in range(0, len(packs), largest)]
    code = snapshot(results_dir)
    jobs = []
    for chunk in chunks:
        jobs += _submit(name, settings, chunk, results_dir, code)
        if not slurm:
            _wait(jobs, slurm)
    try:
        _wait(jobs, slurm)
    except KeyboardInterrupt:
        if slurm:
            names = " ".join(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))
            print(f"the jobs go on without this process; to stop them: scancel {names}")
        raise
    for line in dict.fromkeys(line for job in jobs for line in _answer(job)):
        print(line, file=sys.stderr)


def queued(results_dir: Path) -> dict[str, str]:
    """Run keys -> what Slurm has to say of the job that they belong to; from any sweep."""
    files = sorted((results_dir / SUBMITTED).glob("*.json"))
    found: dict[str, str] = {}
    there = _in_queue() if files else None
    if there is None:
        return found
    for file in files:
        try:
            keys = json.loads(file.read_bytes())
        except (OSError, ValueError):  # another sweep has deleted it, or is writing it
            continue
        mine = {job: keys[job] for job in keys if job in there}
        for job, its in mine.items():
            state, reason = there[job]
            found |= dict.fromkeys(its, f"Slurm job {job}, {state.lower()}, {reason}")
        if not mine:
            with contextlib.suppress(OSError):  # somebody else's
                file.unlink()
    return found


def _submit(
    name: str, settings: dict[str, Any], packs: list[Pack], results_dir: Path, code: Path
) -> list[Any]:
    try:
        import submitit
    except ImportError:
        raise ConfigError(
            f"hydra/launcher={name}: submitit is not installed; pip install -e '.[cluster]'"
        ) from None
    kind = name.removeprefix("submitit_")
    given = {k: v for k, v in settings.items() if v is not None and k not in OF_THE_PACK}
    timeouts = given.pop("max_num_timeout")
    folder = results_dir / ".hydra" / "submitit" / "%j"
    try:
        if kind == "slurm":
            given["additional_parameters"] = {"requeue": True, **given["additional_parameters"]}
            executor = submitit.AutoExecutor(
                folder=folder, cluster=kind, slurm_max_num_timeout=timeouts
            )
            given = {k if k in OF_BOTH else f"slurm_{k}": v for k, v in given.items()}
        else:  # AutoExecutor does not let signal_delay_s through to it
            executor = submitit.LocalExecutor(folder=folder, max_num_timeout=timeouts)
            del given["array_parallelism"]
        executor.update_parameters(**given)
        # a job starts where it was submitted, and imports from there
        with contextlib.chdir(code), executor.batch():
            jobs = [executor.submit(pack) for pack in packs]
    except Exception as error:  # sbatch's own words, or submitit's
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"hydra/launcher={name}: {text}") from None
    if kind == "slurm":
        keys = {j.job_id: [c.key for c in p.configs] for j, p in zip(jobs, packs, strict=True)}
        array = jobs[0].job_id.partition("_")[0]
        (results_dir / SUBMITTED).mkdir(parents=True, exist_ok=True)
        write_atomically(results_dir / SUBMITTED / f"{array}.json", [json.dumps(keys).encode()])
        print(f"Slurm job {array}, {len(jobs)} in the array; leave any time, the jobs go on",
              flush=True)  # fmt: skip
    return jobs


def _wait(jobs: list[Any], slurm: bool) -> None:
    told: set[str] = set(USUAL)
    while True:
        if slurm:
            there = _in_queue()
            if there is None:
                time.sleep(POLL_SECONDS)
                continue
            mine = {job.job_id: there[job.job_id] for job in jobs if job.job_id in there}
            if not mine:
                return
            for job, (state, reason) in mine.items():
                if state == "PENDING" and reason not in told:
                    told.add(reason)
                    print(f"Slurm keeps job {job} waiting: {reason}", file=sys.stderr)
        elif all(job.done() for job in jobs):
            return
        time.sleep(POLL_SECONDS)


def _in_queue() -> dict[str, tuple[str, str]] | None:
    """Id -> state and its reason, of this user's jobs that are pending, running, or on their way
    back into the queue; None where Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T %r",
               f"--user={os.getuid()}"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    found = {}
    for line in done.stdout.splitlines():
        job, state, *reason = line.split(maxsplit=2)  # there may be none
        if state not in ENDED:
            found[job] = (state, *(reason or ["no reason"]))
    return found


def _answer(job: Any) -> list[str]:
    """What a job that has ended said; the records say what it did."""
    if not job.paths.result_pickle.exists():
        why = "cancelled, killed, or out of time before it could save"
        return [f"job {job.job_id} ended before its runs did: {why}: {job.paths.stderr}"]
    try:
        return job.result()
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        return [f"job {job.job_id}: {why}: {job.paths.stderr}"]
