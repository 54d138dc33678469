"""How much memory there is to take."""

import os
from contextlib import suppress
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
# of version 2 and version 1: a container's limit, what it uses, and of what kinds, by their names
CONTAINERS = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)  # fmt: skip


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on ``device``; on the host also by the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, StopIteration):  # no Linux: what was found stands
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if "MemAvailable" in line)
    for limit, used, stat, cached in CONTAINERS:
        # no container of this version, or no limit ("max")
        with suppress(OSError, ValueError, KeyError):
            left = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
            # cached files count as used, and are dropped when memory is needed
            kinds = dict(line.split() for line in (CGROUP / stat).read_text().splitlines())
            free = min(free, left + sum(int(kinds[kind]) for kind in cached))
    return free
