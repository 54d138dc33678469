"""Where a number comes from: code, packages, hardware, settings."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
from typing import Any

from runners.config import ROOT, RunConfig

PACKAGES = ("torch", "numpy", "hydra-core", "wandb", "pandas")
CODE = ("laprop", "tasks", "runners")  # what a run executes


def provenance(config: RunConfig, task: Any) -> dict[str, Any]:
    """The first line of a record."""
    return {
        "key": config.key,
        "names": config.names,
        "values": config.values,
        "replicas": list(task.replicas),
        "code": code_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "hardware": hardware(next(task.parameters()).device),
        "python": platform.python_version(),
    }


@functools.cache
def code_version() -> dict[str, str]:
    """The commit, if any, and a digest over the source files themselves, edited or not."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.name.endswith("_test.py"):
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return {"commit": _commit(), "digest": digest.hexdigest()[:16]}


def _commit() -> str:
    """The commit of this checkout, with "+" where files differ from it; "unknown" without git."""
    try:
        git = functools.partial(
            subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
        commit = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
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
    if device.type == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found
