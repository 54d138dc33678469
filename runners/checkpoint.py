"""Checkpoints: everything a killed run needs to go on to the same numbers."""

import os
import sys
from pathlib import Path
from typing import Any

import torch

from runners.command import first_line
from runners.loop import Progress
from runners.provenance import made_by_other_code, other_arithmetic
from runners.record import FILE_NAME
from tasks.task import CorruptState


def save_checkpoint(
    path: Path, key: str, states: dict[str, Any], progress: Progress, record_size: int
) -> None:
    """Write atomically: a kill, or a full disk (OSError), leaves the old checkpoint or the new one,
    never a half."""
    content = {
        "key": key,
        "record_size": record_size,
        "progress": vars(progress),
        "states": {name: state.state_dict() for name, state in states.items() if state is not None},
        "torch_stream": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        content["cuda_streams"] = torch.cuda.get_rng_state_all()
    temporary = path.with_suffix(".tmp")  # the next one's, too: a kill leaves no second one
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):  # torch hides a full disk behind its own error
            raise error.__context__ from None
        raise
    os.replace(temporary, path)


def load_checkpoint(path: Path, key: str, states: dict[str, Any], progress: Progress) -> int | None:
    """Restore ``states`` and ``progress`` in place; returns the record's size at that moment.

    None: there is no checkpoint, the run starts at step 0. One that cannot be read is named, set
    aside as ``checkpoint.pt.aside``, and the run starts at step 0 as well; so is one whose task
    does not find its files (CorruptState). The task comes first in ``states``: nothing is restored
    by then.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        size, saved, present = content["record_size"], content["states"], content["key"]
        if present != key:
            raise ValueError(f"belongs to run {present}")
    except Exception as error:  # torch raises many kinds for a file that is not what it was
        reason = first_line(error).partition(". ")[0]
        return _set_aside(path, f"corrupted checkpoint ({type(error).__name__}: {reason})")
    record = path.parent / FILE_NAME
    if not record.exists() or record.stat().st_size < size:
        return _set_aside(path, f"{FILE_NAME} beside it is damaged: shorter than it was before")
    if made_by_other_code(path.parent):
        return _set_aside(path, "checkpoint of other code than the present")
    if other := other_arithmetic(path.parent, next(states["task"].parameters()).device):
        return _set_aside(path, f"checkpoint made with {other}, which is another here")
    try:
        for name, state in states.items():
            if state is not None:
                state.load_state_dict(saved[name])
    except CorruptState as error:
        return _set_aside(path, str(error))
    vars(progress).update(content["progress"])
    torch.set_rng_state(content["torch_stream"])
    if torch.cuda.is_available() and "cuda_streams" in content:
        visible = torch.cuda.device_count()  # another number, maybe, where it goes on
        torch.cuda.set_rng_state_all(content["cuda_streams"][:visible])
    return size


def _set_aside(path: Path, reason: str) -> None:
    aside = path.with_name(path.name + ".aside")
    os.replace(path, aside)
    print(f"{path}: {reason}; set aside as {aside.name}, the run starts again", file=sys.stderr)
