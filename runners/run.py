"""One run, or a sweep of them.

    python -m runners.run task=T optimizer=O [key=value ...]
    python -m runners.run -m experiment=E scale=S [hydra/launcher=joblib] [key=value ...]
    python -m runners.run -m task=T optimizer=O1,O2 optimizer.lr=1e-3,1e-2

Read `run` for the straight line from a configuration to a record.
"""

import errno
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runners import distributed, record
from runners.command import again, ending
from runners.config import (
    CONF,
    ConfigError,
    RunConfig,
    check_scale,
    check_seeds,
    compose_config,
    parse,
    resolve,
)
from runners.lease import Lease, LeaseLost, hold

CHECKPOINT = "checkpoint.pt"
TASK_FOLDER = "task"
RUNNING = "running"  # what a run is for everybody else while another process holds its lease
# "save and stop"; HUP is the terminal's end
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# flags that Hydra answers, without a run, and those that say how
HYDRAS = {"-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info"}
OF_CFG = {"--resolve", "-p", "--package"}
OF_ONE_RUN = {"-c", "--cfg", "-i", "--info"}
MOST_KINDS = 10  # lines about the end of a run
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def run(config: RunConfig, progress_bar: bool = False) -> str:
    """Bring one run to its end and return its status; a finished one is left as it is.

    Raises ConfigError before anything is written, and so does whatever a task or an optimizer
    raises when it is built; every exception of the training becomes a record with status
    ``failed`` and its traceback. ``running`` says that another process is at it. A signal
    of `STOPS`, or a full disk, leaves the run ``interrupted``.
    """
    from runners.provenance import check_inputs

    status, force = record.read_status(config.folder), config.values["force"]
    if not force and (status in record.FINISHED or (config.folder / CHECKPOINT).exists()):
        check_inputs(config)
    if status in record.FINISHED and not force:
        return status
    check_results_dir(config)
    task, optimizer, schedule = _build(config)
    if not distributed.is_first():
        return _follow(config, task, optimizer, schedule)
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(config.folder, os.W_OK | os.X_OK):
            raise ConfigError(f"results_dir: {config.folder} cannot be written: no permission")
        with stop_signals() as stop, hold(config.folder) as lease:
            if lease is None:
                return RUNNING
            # it may have finished while this process was building
            status = record.read_status(config.folder)
            if status in record.FINISHED and not force:
                return str(status)
            return _run_leased(config, lease, stop, task, optimizer, schedule, progress_bar)
    except LeaseLost as error:
        print(f"{error}; this one stops", file=sys.stderr)
        return RUNNING
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(
            f"{config.label}: {error.filename or config.folder}: {error.strerror}; nothing is lost, the same command "
            "goes on from the last checkpoint when there is room",
            file=sys.stderr,
        )
        return record.INTERRUPTED


def _run_leased(
    config: RunConfig, lease: Lease, stop: Callable[[], bool], task: Any, optimizer: Any,
    schedule: Any, bar: bool,
) -> str:  # fmt: skip
    from runners.checkpoint import save_checkpoint
    from runners.loop import Progress
    from runners.outputs import Outputs
    from runners.provenance import provenance

    folder, progress = config.folder, Progress()
    states = {"task": task, "optimizer": optimizer, "schedule": schedule}
    task.folder, task.stopping = folder / TASK_FOLDER, stop
    size = _restore(config, states, progress)
    distributed.any_of(False, next(task.parameters()).device)  # the others may load it now
    writer = _open_record(folder, provenance(config, task), size)
    if size is not None and bar:
        print(f"{config.label}: goes on from step {progress.step:,}", file=sys.stderr)
    outputs = Outputs(config, lease, task, writer, progress.step, bar)

    def checkpoint() -> None:
        lease.check()
        save_checkpoint(folder / CHECKPOINT, config.key, states, progress, writer.size())

    status = record.INTERRUPTED  # by a second Ctrl-C, which waits for nothing
    try:
        status = _train(config, states, progress, outputs.row, checkpoint, stop)
        outputs.end(status, progress.step, diverged=progress.diverged)
        if status in record.FINISHED:
            (folder / CHECKPOINT).unlink(missing_ok=True)
            shutil.rmtree(task.folder, ignore_errors=True)
    except LeaseLost:
        status = RUNNING
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            status = record.INTERRUPTED
            raise
        status = record.FAILED
        outputs.end(status, progress.step, traceback=traceback.format_exc())
    finally:
        outputs.leave(status, progress.step)
    return status


def _restore(config: RunConfig, states: dict[str, Any], progress: Any) -> int | None:
    """Go on from the checkpoint, if there is one: the size of the record at that moment, or None.

    Else whatever lies in the folder belongs to no run, and goes.
    """
    from runners.checkpoint import load_checkpoint

    path = config.folder / CHECKPOINT
    if config.values["force"]:
        path.unlink(missing_ok=True)
    size = load_checkpoint(path, config.key, states, progress)
    if size is None:
        shutil.rmtree(config.folder / TASK_FOLDER, ignore_errors=True)
        # else both are uploaded as one run
        shutil.rmtree(config.folder / "wandb", ignore_errors=True)
    return size


def _train(
    config: RunConfig, states: dict[str, Any], progress: Any,
    write: Callable[[dict[str, Any]], None], checkpoint: Callable[[], None],
    stop: Callable[[], bool],
) -> str:  # fmt: skip
    """The training loop as ``config`` has it; all processes of a run stop together."""
    from runners.loop import train

    values, device = config.values, next(states["task"].parameters()).device
    return train(
        states["task"], states["optimizer"], states["schedule"], progress,
        steps=values["steps"], eval_every=values["eval_every"],
        checkpoint_every=values["checkpoint_every"], precision=values["precision"],
        write=write, checkpoint=checkpoint, stop=lambda: distributed.any_of(stop(), device),
    )  # fmt: skip


def _open_record(folder: Path, first_line: dict[str, Any], size: int | None) -> record.RecordWriter:
    """A new record, or with the ``size`` that a checkpoint knows the one that is there."""
    if size is not None:
        return record.RecordWriter.resume(folder, size)
    if record.version(folder) and record.read_first_line(folder) is None:
        print(f"{folder / record.FILE_NAME}: not a record, or damaged; the run starts again",
              file=sys.stderr)  # fmt: skip
    writer = record.RecordWriter.start(folder, first_line)
    for name in (record.FILE_NAME, CHECKPOINT):
        record.before(folder / name).unlink(missing_ok=True)
    return writer


def _follow(config: RunConfig, task: Any, optimizer: Any, schedule: Any) -> str:
    """The part of a process that is not the first: the same steps, nothing written."""
    from runners.checkpoint import load_checkpoint
    from runners.loop import Progress

    progress = Progress()
    states = {"task": task, "optimizer": optimizer, "schedule": schedule}
    # the first has looked at the checkpoint
    distributed.any_of(False, next(task.parameters()).device)
    load_checkpoint(config.folder / CHECKPOINT, config.key, states, progress)
    with stop_signals() as stop:
        return _train(config, states, progress, lambda row: None, lambda: None, stop)


def _build(config: RunConfig) -> tuple[Any, Any, Any]:
    """Task, optimizer and schedule on their device, with torch's global stream at the seed."""
    import torch
    from hydra.utils import instantiate

    values = config.values
    device = values["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: no CUDA device here; device=cpu or device=auto expected")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = distributed.join(device)
    # On a CPU, arithmetic on numbers below 1e-38 can be a hundred times slower, and the gradients
    # of deep nets are full of them; they count as 0 here, for every optimizer. Threads take the
    # mode of the one that starts them, so it is set before the first of them is at work.
    torch.set_flush_denormal(True)
    torch.manual_seed(values["seed"])
    # `all`: lists reach torch as lists, not as OmegaConf's, which a checkpoint could not hold;
    # not recursive: a mapping among the values is data, whatever it says of a _target_
    how = {"_convert_": "all", "_recursive_": False}
    with _arguments_checked("task", config.names["task"], values):
        task = instantiate(values["task"], seeds=values["seeds"], **how).to(device)
    if distributed.processes() > 1 and not task.distributed:
        raise ConfigError(f"task={config.names['task']}: runs in one process; without torchrun")
    if not isinstance(getattr(task, "replicas", None), Sequence):
        raise ConfigError(
            f"task={config.names['task']}: its class must set self.replicas, one dict with the "
            "seed for each replica (tasks/task.py)"
        )
    trainable = [p for p in task.parameters() if p.requires_grad]
    with _arguments_checked("optimizer", config.names["optimizer"], values):
        optimizer = instantiate(values["optimizer"], **how)(trainable)
    schedule = None
    with _arguments_checked("schedule", config.names["schedule"], values):
        if values["schedule"]["_target_"] is not None:
            schedule = instantiate(values["schedule"], **how)(optimizer)
    return task, optimizer, schedule


@contextmanager
def _arguments_checked(group: str, name: str, values: dict[str, Any]) -> Iterator[None]:
    """What a constructor says of its arguments, as the one line that a user needs."""
    from hydra.errors import InstantiationException

    chosen = values[group]
    _check_target(group, name, chosen)
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error  # hydra wraps what a constructor raises
        # RuntimeError: fused optimizers say with it what the machine or the parameters lack
        # hydra's own: a target that is no class
        bad_input = (TypeError, ValueError, ImportError, OSError, InstantiationException)
        if not isinstance(cause, (*bad_input, RuntimeError) if group == "optimizer" else bad_input):
            raise
        text = " ".join(str(cause).split())
        first = re.match(r"\w*", text)
        if first and first.group() in chosen:  # by the name it has on the command line
            raise ConfigError(f"{group}.{text}") from error
        raise ConfigError(f"{group}={name}: {text}") from error


def _check_target(group: str, name: str, chosen: dict[str, Any]) -> None:
    """Refuse a YAML of a user's own that Hydra could not make an object of."""
    path = CONF.name + f"/{group}/{name}.yaml"
    if "_target_" not in chosen:
        raise ConfigError(f"{path}: _target_: the class expected")
    if group != "task" and chosen["_target_"] is not None and chosen.get("_partial_") is not True:
        raise ConfigError(f"{path}: _partial_: true expected, for parameters come later")


def check_results_dir(config: RunConfig) -> None:
    """Make the directory for the runs; raises ConfigError where that is not possible."""
    folder = Path(config.values["results_dir"])
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"results_dir={folder}: cannot be written: {error.strerror}") from None
    if not os.access(folder / "runs", os.W_OK | os.X_OK):
        raise ConfigError(f"results_dir={folder}: cannot be written: no permission")


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C, SIGTERM and the warnings of batch systems let the step end, save, and stop the run.

    A second Ctrl-C is immediate. When all is saved, the signal goes on to the handler that was
    there before: submitit's puts the job back into the queue. Inside of another such block it is the
    outer one's, so that a signal from before a run began, during its imports, say, stops it too.
    """
    outer = getattr(signal.getsignal(signal.SIGTERM), "stop", None)
    if outer is not None:
        yield outer
        return
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt
        received.append(number)

    def stop() -> bool:
        return bool(received)

    note.stop = stop
    try:
        heard = [number for number in STOPS  # after nohup the end of the terminal is not
                 if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]  # fmt: skip
        before = {number: signal.signal(number, note) for number in heard}
    except ValueError:  # not the main thread: whoever started us handles the signals
        yield lambda: False
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in dict.fromkeys(received):
        handler = before[signal.Signals(number)]
        if callable(handler) and handler is not signal.default_int_handler:
            signal.raise_signal(number)


def reason(error: Exception) -> str:
    """Why a run did not begin, in one line."""
    cause = error if isinstance(error, ConfigError) else error.__cause__ or error  # hydra wraps
    kind = "" if isinstance(cause, ConfigError) else f"{type(cause).__name__}: "
    return kind + " ".join(str(cause).split())


@ending
def main(arguments: list[str]) -> int:
    """The command line; returns the exit code: 0 fine, 1 something failed, 2 bad input."""
    overrides = [a for a in arguments if a not in ("-m", "--multirun")]
    flags = {a.partition("=")[0]: a for a in overrides if a.startswith("-")}
    for name, flag in flags.items():
        if name not in HYDRAS | OF_CFG:
            raise ConfigError(f"{flag}: unknown option; --help, -m or key=value expected")
        if not HYDRAS & set(flags):
            raise ConfigError(f"{flag}: of no effect without --cfg")
        if name in OF_ONE_RUN and len(overrides) < len(arguments):
            raise ConfigError(f"{flag}: shows one run; without -m and with one value a key")
    if flags:
        parse([a for a in overrides if "=" in a and a not in flags.values()])
        return _hydra(arguments)
    if len(overrides) < len(arguments):
        if distributed.processes() > 1:
            raise ConfigError("-m: a sweep starts its own processes; without torchrun")
        from runners.sweep import sweep

        return sweep(overrides)
    for override in parse(overrides):
        if re.match(r"hydra[/.]launcher", override.key_or_group):
            raise ConfigError(f"{override.input_line}: of no effect without -m")
    config = resolve(compose_config(overrides))
    if config.values["experiment"] is not None:
        raise ConfigError(
            f"experiment={config.names['experiment']}: an experiment is a sweep; add -m"
        )
    check_scale(overrides)
    check_seeds(overrides)
    before = record.read_status(config.folder)
    status = run(config, progress_bar=distributed.is_first())
    distributed.leave()
    if not distributed.is_first():
        return 0  # the first one tells
    whole = _tell(config, status, before in record.FINISHED and not config.values["force"])
    if status == record.FAILED:
        line = record.read_last_line(config.folder) or {}
        print(line.get("traceback", "").rstrip(), file=sys.stderr)
    return {record.INTERRUPTED: 130, record.FAILED: 1, RUNNING: 1}.get(status, 0 if whole else 1)


def _tell(config: RunConfig, status: str, skipped: bool) -> bool:
    """The end of one run on the terminal: how, where, and its last measured values; returns
    whether its record can be read as a whole."""
    from runners.provenance import OTHER_CODE, made_by_other_code

    how = {RUNNING: "running, another process has it"}.get(status, status)
    print(f"{config.label}: {how}{' before' if skipped else ''}, "
          f"{config.folder / record.FILE_NAME}")  # fmt: skip
    if status == record.INTERRUPTED:
        print(again(["force=true"] if config.values["force"] else []), file=sys.stderr)
    if skipped and made_by_other_code(config.folder):
        print(f"it was {OTHER_CODE.replace('them', 'it')}", file=sys.stderr)
    found = record.read_record(config.folder)
    if found and found.damaged:
        lines = ", ".join(map(str, found.damaged[:5]))
        print(f"its record is damaged, lines that cannot be read: {lines}; force=true runs it again",
              file=sys.stderr)  # fmt: skip
    if found and found.status:
        for name in found.status.get("files", []):
            print(config.folder / name)
    if found and found.rows and status in record.FINISHED:
        last = {name: v for name, v in found.rows[-1].items() if isinstance(v, list)}
        for kind, places in _kinds(found.provenance["replicas"]).items():
            several = len(places) > 1
            which = f" (medians of {len(places):,} replicas)" if several else ""
            texts = [f"{name} {record.median_text([v[i] for i in places], ',.6g')}"
                     for name, v in last.items()]  # fmt: skip
            dash = any(text.endswith(" -") for text in texts)
            note = f" (-: no number{', for half or more' * several})" if dash else ""
            print(f"step {found.rows[-1]['step']:,}{kind}{which}: {', '.join(texts)}{note}")
    return not (found and found.damaged)


def _kinds(replicas: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """The places of the replicas that differ by seed alone, and what they have in common; all in
    one where that would be many lines."""
    kinds: dict[str, list[int]] = {}
    for place, replica in enumerate(replicas):
        own = [f", {key}={value}" for key, value in replica.items() if key != "seed"]
        kinds.setdefault("".join(own), []).append(place)
    if 1 < len(kinds) <= MOST_KINDS:
        return kinds
    return {"": list(range(len(replicas)))}


def _hydra(arguments: list[str]) -> int:
    """Hydra's own flags (--help, --cfg, --info, ...) are Hydra's."""
    import hydra

    sys.argv[1:] = arguments
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(lambda cfg: None)()
    return 0


if __name__ == "__main__":
    # under its real name, so that worker processes can import what they are sent
    from runners.run import main as entry

    sys.exit(entry())
