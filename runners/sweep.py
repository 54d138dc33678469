"""A sweep: leave out what is finished, let one of Hydra's launchers do the rest, and report.

The exit code of Hydra's own multirun speaks of the first failure only. So the plan (runners/plan.py)
is compared with the records, and a launcher (basic, joblib, submitit, ...) gets exactly the jobs that
are missing. What was achieved is read from the records, never from the launcher.
"""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runners import cluster, record
from runners.command import again, first_line
from runners.config import (
    CONF,
    ConfigError,
    RunConfig,
    compose_config,
    parse,
    resolve,
)
from runners.lease import hold, is_held
from runners.orphan import unless_orphaned
from runners.plan import Job, is_hydra, plan
from runners.provenance import OTHER_CODE, check_inputs, made_by_other_code
from runners.run import (
    CHECKPOINT,
    RUNNING,
    check_results_dir,
    reason,
    run,
    stop_signals,
)

MISSING = "missing"
MISSING_LISTED = 5  # runs that never began, by name
POLL_SECONDS = 0.5


def state(config: RunConfig) -> str:
    """completed, diverged, failed, interrupted, running, or missing (never begun)."""
    status = record.read_status(config.folder)
    if status in record.FINISHED or not config.folder.exists():
        return status or MISSING
    if is_held(config.folder):
        return RUNNING
    # killed: nobody holds the lease, and no status was written
    begun = (config.folder / record.FILE_NAME).exists()
    return record.read_status(config.folder) or (record.INTERRUPTED if begun else MISSING)


def sweep(overrides: Sequence[str]) -> int:
    """Run what is missing of a sweep; returns the exit code, 0 only when every run is finished."""
    jobs = plan(overrides)
    launcher = _launcher(overrides)  # one that there is not is refused, work to do or not
    check_results_dir(jobs[0].config)
    with contextlib.ExitStack() as stack:
        if any(job.config.values["force"] for job in jobs):
            # once, here: a job that is put back, or another try, then goes on as always
            jobs = plan([o for o in overrides if parse([o])[0].key_or_group != "force"])
            stack.enter_context(_started_over(jobs))
        return _run_missing(jobs, launcher)


@contextmanager
def _started_over(jobs: Sequence[Job]) -> Iterator[None]:
    """Set aside what there is of ``jobs``, but for those that a process is at; put back what could
    not begin, as a task cannot be built, say, or the launcher refuses its settings."""
    names = (record.FILE_NAME, CHECKPOINT)
    folders = [job.config.folder for job in jobs if job.config.folder.exists()]
    back = True
    try:
        for folder in folders:
            try:
                _set_aside(folder, names)
            except OSError as error:
                raise ConfigError(
                    f"force=true: {error.filename or folder}: {error.strerror}"
                ) from None
        back = False  # after Ctrl-C all stays aside: the jobs, or the next command, go on with it
        yield
        back = True
    except ConfigError:
        back = True
        raise
    finally:
        for folder, name in itertools.product(folders if back else (), names):
            # what began has deleted it (`run._open_record`)
            with contextlib.suppress(FileNotFoundError):
                os.replace(record.before(folder / name), folder / name)


def _set_aside(folder: Path, names: Sequence[str]) -> None:
    with hold(folder) as lease:
        for name in names if lease else ():
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder / name, record.before(folder / name))


def _run_missing(jobs: list[Job], launcher: DictConfig) -> int:
    finished = [state(job.config) in record.FINISHED for job in jobs]
    done = list(itertools.compress(jobs, finished))
    todo = [job for job, ended in zip(jobs, finished, strict=True) if not ended]
    for job in done:
        check_inputs(job.config)
    print(f"{_number_of(jobs)}, {len(done)} finished before, {len(todo)} to do", flush=True)
    other = sum(made_by_other_code(job.config.folder) for job in done)
    if other:
        print(f"{other} of the finished were {OTHER_CODE}", file=sys.stderr)
    left = len(todo) + 1
    while todo and len(todo) < left:  # as long as each round gets something done
        left = len(todo)
        given_up: list[Job] = []
        with _watch(todo):
            taken = taken_by_others(todo)
            free = [job for job in todo if job.config.key not in taken]
            if taken:
                print(f"{len(taken)} of them are running or in a queue already", flush=True)
            if free:
                given_up = _launch(free, launcher)
            while taken_by_others(todo):  # waited for, not run twice
                time.sleep(cluster.POLL_SECONDS)
        todo = [job for job in todo if state(job.config) not in record.FINISHED]
        todo = [job for job in todo if job not in given_up]
        if all(state(job.config) == record.FAILED for job in todo):
            break
    return _report(jobs)


def _launcher(overrides: Sequence[str]) -> DictConfig:
    """Hydra's configuration with the chosen launcher."""
    chosen = [o.input_line or "" for o in parse(overrides)
              if is_hydra(o) or o.key_or_group == "results_dir"]  # fmt: skip
    for override in parse(chosen):
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: one folder expected")
    cfg = compose_config(chosen)
    if cfg.hydra.launcher.get("n_jobs") == 0:
        raise ConfigError(
            "hydra.launcher.n_jobs=0: a number of processes expected, or -1 for all cores"
        )
    return cfg


def _launch(jobs: list[Job], cfg: DictConfig) -> list[Job]:
    """Hand ``jobs`` to the Hydra launcher of ``cfg``, as a sweeper does, and wait for it.

    Returns those that another try is of no use for: a task or an optimizer refused their
    arguments or could not be built, or a batch system has already done what it could.
    """
    from hydra import initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    name = cfg.hydra.runtime.choices["hydra/launcher"]
    if name in cluster.LAUNCHERS:
        settings: Any = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
        cluster.launch(name, settings, [job.config for job in jobs])
        return jobs
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="run"):
        loader = GlobalHydra.instance().config_loader()
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()),
            task_function=run_job,
            config=cfg,
        )
        # Where one run after the other is done in this process, a signal that comes too late for one
        # of them, as it is saved, say, stops the next.
        listening = stop_signals() if name == "basic" else contextlib.nullcontext()
        try:
            with listening:
                results = launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=0)
        except Exception as error:  # a worker was killed, say: the records tell what is left
            told = f"{type(error).__name__}: {first_line(error)}"
            print(f"launcher: {told}; {again([])}", file=sys.stderr)
            return []
    answers = [(job, result._return_value) for job, result in zip(jobs, results, strict=True)]
    refused: dict[str, list[Job]] = {}
    for job, answer in answers:
        if isinstance(answer, Exception):
            refused.setdefault(reason(answer), []).append(job)
    for why, of in refused.items():
        others = f" and {len(of) - 1} more" if len(of) > 1 else ""
        print(f"{of[0].label}{others}: {why}", file=sys.stderr)
    return [job for of in refused.values() for job in of]


def run_job(cfg: DictConfig) -> str:
    """What a launcher calls, possibly in another process, with the configuration of one job."""
    from hydra.core.hydra_config import HydraConfig

    whole = OmegaConf.merge({"hydra": HydraConfig.get()}, cfg)
    assert isinstance(whole, DictConfig)
    config = resolve(whole)
    status = unless_orphaned(lambda: run(config))
    if status == record.INTERRUPTED:
        raise KeyboardInterrupt
    return status


def taken_by_others(jobs: Sequence[Job]) -> set[str]:
    """Keys of the runs that a process is at, or that wait in a batch system's queue."""
    queued = cluster.queued(Path(jobs[0].config.values["results_dir"]))
    return {
        job.config.key
        for job in jobs
        if (job.config.key in queued or is_held(job.config.folder))
        and record.read_status(job.config.folder) not in record.FINISHED
    }


def _number_of(jobs: list[Job]) -> str:
    return "1 run" if len(jobs) == 1 else f"{len(jobs)} runs"


def _report(jobs: list[Job]) -> int:
    states = {job.config.key: state(job.config) for job in jobs}
    counts = Counter(states.values())
    each = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    print(f"{_number_of(jobs)}: {each}")
    listed: Counter[str] = Counter()
    for job in jobs:
        name = states[job.config.key]
        if name in record.FINISHED:
            continue
        listed[name] += 1
        if name == MISSING and listed[name] > MISSING_LISTED:
            continue
        line = record.read_last_line(job.config.folder) or {}
        error = (line.get("traceback") or "").strip().rpartition("\n")[2]
        print(f"  {name}: {job.label} {job.config.folder} {error}".rstrip())
    if (more := listed[MISSING] - MISSING_LISTED) > 0:
        print(f"  {MISSING}: {more} more, which python -m runners.status lists")
    return 0 if all(s in record.FINISHED for s in states.values()) else 1


@contextmanager
def _watch(jobs: list[Job]) -> Iterator[None]:
    """Progress of a sweep from its records, whatever launches it: a bar, or a line a run."""
    from tqdm import tqdm

    done = threading.Event()
    terminal = sys.stderr.isatty()
    bar = tqdm(total=len(jobs), desc="sweep", unit="run", disable=not terminal)
    waiting = list(jobs)
    start = time.monotonic()
    before = {job.config.key: record.version(job.config.folder) for job in jobs}

    def look() -> None:
        for job in list(waiting):
            if record.version(job.config.folder) == before[job.config.key]:
                continue  # failed the last time, say
            status = record.read_status(job.config.folder)
            if status is None or status == record.INTERRUPTED:
                continue
            waiting.remove(job)
            bar.update()
            if not terminal:
                count = f"[{len(jobs) - len(waiting)}/{len(jobs)}]"
                minutes, seconds = divmod(int(time.monotonic() - start), 60)
                print(f"{minutes}:{seconds:02} {count} {job.label}: {status}", flush=True)

    def loop() -> None:
        # whoever read the output has seen enough: the runs go on
        with contextlib.suppress(BrokenPipeError):
            while not done.wait(POLL_SECONDS):
                look()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        look()
        bar.close()
