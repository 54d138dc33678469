"""A sweep: plan its runs, leave out what is finished, let one of Hydra's launchers do the rest.

Hydra's own multirun composes every job (0.1 s each) before it can know that the job is done, and
its exit code speaks of the first failure only. So the plan is made here, and a launcher (basic,
joblib, submitit, ...) gets exactly the jobs that are missing. What was achieved is read from the
records, never from the launcher.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runners import cluster, record
from runners.config import (
    ADDED,
    CONF,
    ConfigError,
    RunConfig,
    added,
    compose_config,
    groups,
    hint,
    on_leaderboard,
    parse,
    resolve,
    resolve_values,
    without_hydra,
)
from runners.lease import hold, is_held
from runners.orphan import unless_orphaned
from runners.provenance import OTHER_CODE, check_inputs, made_by_other_code
from runners.run import CHECKPOINT, RUNNING, again, check_results_dir, reason, run

MISSING = "missing"
POLL_SECONDS = 0.5
LONGEST_VALUE = 24  # in a label
FROM_SCALE = re.compile(r"\$\{scales\.\$\{scale\}\.(\w+)\}")


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the overrides that a launcher gets, what they resolve to, and a label for
    people, in which the runs of a sweep differ."""

    overrides: tuple[str, ...]
    config: RunConfig
    label: str


def plan(overrides: Sequence[str]) -> list[Job]:
    """All runs of a sweep, finished or not, each once, in the order in which they are written.

    With ``experiment=E`` they are the products of E's sweeps; an override of a swept key then
    narrows the sweep to the given values, and ``optimizers=+mine`` adds an optimizer. Otherwise
    they are the product of the comma-separated overrides. Raises ConfigError.
    """
    return list(_plan(tuple(o for o in overrides if not is_hydra(parse([o])[0]))))


@functools.cache  # a sweep and its analysis ask for the same plan, and it takes seconds
def _plan(overrides: tuple[str, ...]) -> tuple[Job, ...]:
    more = added(overrides)
    given = {o.key_or_group: _values(o) for o in parse(overrides) if o.key_or_group != ADDED}
    fixed = {key: values for key, values in given.items() if len(values) == 1}
    experiment = fixed.get("experiment", ["none"])
    products = [given]
    if experiment != ["none"]:
        base = compose_config([f"{key}={value}" for key, (value,) in fixed.items()
                               if key in ("experiment", "scale") or key.startswith("scales.")])  # fmt: skip
        for key in fixed:
            if key.startswith("scales.") and not key.startswith(f"scales.{base.scale}."):
                raise ConfigError(f"{key}: of no effect at scale={base.scale}")
        task = resolve(base).names["task"]
        if given.get("task", [task]) != [task]:
            other = ",".join(given["task"])
            raise ConfigError(f"task={other}: experiment={experiment[0]} is on {task}")
        products = _narrow(_widen(_sweeps(base), more, experiment[0]), given, base)
    elif more:
        raise ConfigError(f"{ADDED}=+{more[0]}: for experiments; optimizer={more[0]} runs it")
    resolve_job = _Resolver()
    several = functools.cache(lambda optimizer: _several(products, optimizer))
    jobs: dict[str, Job] = {}
    for product in products:
        for values in itertools.product(*product.values()):
            job = tuple(f"{k}={v}" for k, v in zip(product, values, strict=True))
            config = resolve_job(job)
            chosen = dict(zip(product, values, strict=True))
            keys = several(chosen.get("optimizer"))
            apart = [_short(key, value) for key, value in chosen.items() if key in keys]
            jobs.setdefault(config.key, Job(job, config, " ".join([config.label, *apart])))
    return tuple(jobs.values())


def _several(products: Sequence[dict[str, list[str]]], optimizer: str | None) -> set[str]:
    """The keys that take several values among the runs of an ``optimizer``, without those that the
    label of a run names; where a product leaves a key as it is, that is a value of its own."""
    mine = [p for p in products if optimizer is None or optimizer in p.get("optimizer", ())]
    keys = {key for product in mine for key in product}
    values = {key: {v for product in mine for v in product.get(key, ("",))} for key in keys}
    named = ("task", "optimizer", "optimizer.lr")
    return {key for key, some in values.items() if len(some) > 1 and key not in named}


def _short(key: str, value: str) -> str:
    if len(value) > LONGEST_VALUE:
        half = (LONGEST_VALUE - 3) // 2
        value = f"{value[:half]}...{value[-half:]}"
    return f"{key.rpartition('.')[2]}={value}"


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
    check_results_dir(jobs[0].config)
    launcher = _launcher(overrides)  # one that there is not is refused, work to do or not
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
    for folder in folders:
        with hold(folder) as lease:
            for name in names if lease else ():
                with contextlib.suppress(FileNotFoundError):
                    os.replace(folder / name, _before(folder / name))
    back = False  # after Ctrl-C all stays aside: the jobs, or the next command, go on with it
    try:
        yield
        back = True
    except ConfigError:
        back = True
        raise
    finally:
        for folder in folders:
            begun = (folder / record.FILE_NAME).exists()
            for name in names:
                before = _before(folder / name)
                if begun:
                    before.unlink(missing_ok=True)
                elif back and before.exists():
                    os.replace(before, folder / name)


def _before(file: Path) -> Path:
    return file.with_name(f"{file.name}.before")


def _run_missing(jobs: list[Job], launcher: DictConfig) -> int:
    finished = [state(job.config) in record.FINISHED for job in jobs]
    done = list(itertools.compress(jobs, finished))
    todo = [job for job, ended in zip(jobs, finished, strict=True) if not ended]
    for job in done:
        check_inputs(job.config)
    print(f"{len(jobs)} runs, {len(done)} finished before, {len(todo)} to do", flush=True)
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
    return compose_config(chosen)


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
        try:
            results = launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=0)
        except Exception as error:  # a worker was killed, say: the records tell what is left
            first = (str(error).splitlines() or [""])[0]
            print(f"launcher: {type(error).__name__}: {first}; {again([])}", file=sys.stderr)
            return []
    answers = [(job, result._return_value) for job, result in zip(jobs, results, strict=True)]
    refused = [(job, answer) for job, answer in answers if isinstance(answer, Exception)]
    for job, answer in refused:
        print(f"{job.label}: {reason(answer)}", file=sys.stderr)
    return [job for job, _ in refused]


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


def _report(jobs: list[Job]) -> int:
    states = {job.config.key: state(job.config) for job in jobs}
    counts = Counter(states.values())
    print(f"{len(jobs)} runs: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
    for job in jobs:
        if states[job.config.key] not in record.FINISHED:
            line = record.read_last_line(job.config.folder) or {}
            reason = (line.get("traceback") or "").strip().rpartition("\n")[2]
            print(f"  {states[job.config.key]}: {job.label} {job.config.folder} {reason}")
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


class _Resolver:
    """`resolve` for many jobs: Hydra composes once per choice of groups, values are set in."""

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}
        self._groups = groups()

    def __call__(self, overrides: tuple[str, ...]) -> RunConfig:
        parsed = dict(zip(overrides, parse(overrides), strict=True))
        structural = tuple(text for text, o in parsed.items() if self._is_structural(o))
        if structural not in self._bases:
            self._bases[structural] = without_hydra(compose_config(structural))
        base, names = self._bases[structural]
        cfg = base.copy()
        for text, override in parsed.items():
            if text in structural:
                continue
            key = override.key_or_group
            if OmegaConf.select(cfg, key, default=_ABSENT) is _ABSENT:
                compose_config(overrides)  # raises, with the error for an unknown key
            OmegaConf.update(cfg, key, override.value(), merge=True)
        return resolve_values(cfg, names)

    def _is_structural(self, override: Override) -> bool:
        """Whether it does more than set a value: it chooses an option."""
        return override.key_or_group in self._groups


_ABSENT = object()


def is_hydra(override: Override) -> bool:
    """Whether it is about the launcher and the like, not about the runs."""
    return override.key_or_group.startswith(("hydra/", "hydra."))


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        if not override.is_discrete_sweep():
            raise ConfigError(f"{override.input_line}: only lists of values can be swept")
        return [str(value) for value in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def _sweeps(cfg: DictConfig) -> list[dict[str, list[str]]]:
    resolved: Any = OmegaConf.to_container(cfg.sweeps, resolve=True)
    for name, sweep in resolved.items():
        for key, values in sweep.items():
            if not isinstance(values, list):
                raise ConfigError(f"sweeps.{name}.{key}={values}: a list of values expected")
    return [
        {key: [_text(value) for value in values] for key, values in sweep.items()}
        for sweep in resolved.values()
    ]


def _text(value: Any) -> str:
    """A value in Hydra's override grammar."""
    return value if isinstance(value, str) else json.dumps(value)


def _other_values(key: str, values: Sequence[str], base: DictConfig) -> str:
    """Where the sweeps take a key's values from, for one who wants others."""
    written: Any = OmegaConf.to_container(base.sweeps, resolve=False)
    text = ",".join(value.replace(" ", "") for value in values)
    places: dict[str, None] = {}
    for entry in (sweep[key] for sweep in written.values() if key in sweep):
        if found := FROM_SCALE.fullmatch(str(entry)):
            places[f"scales.{base.scale}.{found[1]}=[{text}]"] = None
        elif isinstance(entry, list) and len(values) == 1:
            places |= {f"scales.{base.scale}.{found[1]}={text}": None
                       for item in entry if (found := FROM_SCALE.fullmatch(str(item)))}  # fmt: skip
    return f"; other values: {' or '.join(places)}" if places else ""


def _narrow(
    sweeps: list[dict[str, list[str]]], given: dict[str, list[str]], base: DictConfig
) -> list[dict[str, list[str]]]:
    """The given overrides put into every sweep; on a swept key they keep what they name."""
    given = {key: [_normal(v) for v in values] for key, values in given.items()}
    for key, values in given.items():
        swept = [_normal(v) for sweep in sweeps for v in sweep.get(key, ())]
        for value in values:
            if swept and value not in swept:
                raise ConfigError(
                    f"{key}={value}: the experiment sweeps {key}"
                    f"{hint(value, list(dict.fromkeys(swept)))}{_other_values(key, values, base)}"
                )
    narrowed = []
    for sweep in sweeps:
        kept = {
            key: [v for v in map(_normal, values) if key not in given or v in given[key]]
            for key, values in sweep.items()
        }
        if all(kept.values()):
            narrowed.append({**given, **kept})
    if not narrowed:
        names = " ".join(f"{key}={','.join(values)}" for key, values in given.items())
        raise ConfigError(f"{names}: no run of the experiment has all of these")
    return narrowed


def _widen(
    sweeps: list[dict[str, list[str]]], names: Sequence[str], experiment: str
) -> list[dict[str, list[str]]]:
    """The sweeps, and for each of ``names`` those of its kind once more with it in their place.

    Its kind: with two betas or without. It gets the grid, the seeds, and, of the hyper-parameters
    that it has, the values that the others have; what it has not is left out.
    """
    if names and experiment not in (possible := on_leaderboard()):
        raise ConfigError(f"{ADDED}=+{names[0]}: {experiment} does not compare all optimizers; "
                          f"an experiment of {', '.join(possible)} expected")  # fmt: skip
    widened = list(sweeps)
    eps = [sweep["optimizer.eps"] for sweep in sweeps if "optimizer.eps" in sweep]
    for name in names:
        if any(name in sweep["optimizer"] for sweep in sweeps):
            raise ConfigError(f"{ADDED}=+{name}: {experiment} has it already")
        own = {f"optimizer.{key}" for key in compose_config([f"optimizer={name}"]).optimizer}
        if "optimizer.lr" not in own:
            raise ConfigError(f"{ADDED}=+{name}: conf/optimizer/{name}.yaml has no lr to compare")
        for sweep in sweeps:
            if ("optimizer.betas" in sweep) == ("optimizer.betas" in own):
                # those without betas have no eps in their sweep: it is that of the others
                mine = sweep | {"optimizer": [name]} | ({"optimizer.eps": eps[0]} if eps else {})
                widened.append({key: values for key, values in mine.items()
                                if not key.startswith("optimizer.") or key in own})  # fmt: skip
    return widened


def _normal(value: str) -> str:
    """One spelling for numbers and lists, so that 1e-2 is found among 0.01."""
    try:
        return json.dumps(json.loads(value))
    except ValueError:
        return value
