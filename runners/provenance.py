"""Where a number comes from: code, packages, hardware, settings."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

from runners import record
from runners.config import ROOT, ConfigError, RunConfig

PACKAGES = (
    "torch", "numpy", "hydra-core", "wandb", "pandas",
    "ale-py", "gymnasium", "opencv-python-headless",  # what a player sees
)  # fmt: skip
ARITHMETIC = ("torch", "numpy", "ale-py", "gymnasium", "opencv-python-headless")
CODE = ("laprop", "tasks", "runners")  # what a run executes
COMMIT_FILE = ".commit"  # of a copy of the code, which is no git checkout (runners/snapshot.py)
OTHER_CODE = "made by other code than the present; force=true runs them again"


def provenance(config: RunConfig, task: Any) -> dict[str, Any]:
    """The first line of a record."""
    return {
        "key": config.key,
        "names": config.names,
        "values": config.values,
        "inputs": inputs(config),
        "replicas": list(task.replicas),
        "code": code_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "hardware": hardware(next(task.parameters()).device),
        "python": platform.python_version(),
    }


def version(package: str) -> str:
    """Not every run needs every package: without tracking none needs wandb."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def inputs(config: RunConfig) -> dict[str, str]:
    """A digest of what lies in every file or folder that an argument of the task names.

    It decides the numbers as the name does, but is no part of the key: a run is still found where
    its pictures or its corpus are not.
    """
    found = {}
    for name, value in config.values["task"].items():
        for text in value if isinstance(value, list) else [value]:
            if name == "data_dir" or not isinstance(text, str) or not text:
                continue
            path = os.path.expanduser(text)
            if os.path.exists(path):  # pathlib's raises for a long text that is no path
                found[f"task.{name}={text}"] = _content_digest(_versions(Path(path)))
    return found


def check_inputs(config: RunConfig) -> None:
    """Raise ConfigError where the record of ``config`` was made of other files than are there now."""
    known = (record.read_first_line(config.folder) or {}).get("inputs")
    if not known:
        return
    for place, digest in inputs(config).items():
        if known.get(place, digest) != digest:
            raise ConfigError(
                f"{place}: what is in it has changed since {config.folder} was made; force=true "
                "runs it again, a copy of another name is another run"
            )


def _versions(path: Path) -> tuple[tuple[Path, int, int], ...]:
    """The files at ``path``, each with what changes when it is written to."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


@functools.cache  # many runs are made of the same files
def _content_digest(versions: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _, _ in versions:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").digest()
        digest.update(file.name.encode() + b"\0" + content)
    return digest.hexdigest()[:16]


def code_version() -> dict[str, str]:
    """The commit, if any, and a digest over the source files themselves, edited or not."""
    return {"commit": _commit(), "digest": code_digest()}


@functools.cache
def code_digest() -> str:
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cpp") and not path.name.endswith("_test.py"):
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def made_by_other_code(folder: Path) -> bool:
    """Whether the record in ``folder`` was begun by source files that differ from these."""
    first = record.read_first_line(folder)
    return first is not None and first.get("code", {}).get("digest") != code_digest()


def other_arithmetic(folder: Path, device: Any) -> str | None:
    """What of those that decide the last bits was another when the record in ``folder`` was begun."""
    first = record.read_first_line(folder) or {}
    there, here = first.get("hardware", {}), hardware(device)
    began = str(there.get("device", device)).partition(":")[0]
    if began != device.type:
        return f"device {began}"
    if there.get("threads", here.get("threads")) != here.get("threads"):  # launchers differ in it
        return f"{there['threads']} thread{'' if there['threads'] == 1 else 's'}"
    for name, before in first.get("packages", {}).items():
        if name in ARITHMETIC and before != version(name):
            return f"{name} {before}"
    return None


@functools.cache
def _commit() -> str:
    """The last commit that changed the code of a run, with "+" where files differ from it;
    "unknown" without git. Commits of anything else leave it as it is."""
    if (ROOT / COMMIT_FILE).exists():
        return (ROOT / COMMIT_FILE).read_text()
    try:
        git = functools.partial(
            subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
        commit = git(["git", "log", "-1", "--abbrev=12", "--format=%h", "--", *CODE]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--untracked-files=no", "--", *CODE]).stdout
        return commit + ("+" if changed.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def hardware(device: Any) -> dict[str, Any]:
    found = {
        "host": socket.gethostname(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": str(device),
    }
    import torch

    if device.type == "cpu":
        found["threads"] = torch.get_num_threads()  # the order of sums depends on it
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found
