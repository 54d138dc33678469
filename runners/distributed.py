"""Several processes on one run, as ``torchrun --standalone --nproc-per-node=N -m runners.run`` starts
them: the first writes record, checkpoints and W&B, the others only compute.

torch is imported where it is needed, so that help and errors come at once.
"""

import os
from typing import Any


def processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def join(device: str) -> str:
    """Meet the other processes, if there are any; returns the device of this one."""
    if processes() == 1:
        return device
    import torch
    import torch.distributed as dist

    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def leave() -> None:
    """Part from the others without torch's warning, if they have met."""
    if processes() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def any_of(flag: bool, device: Any) -> bool:
    """Whether ``flag`` is true in any process; all of them must ask, with their torch device."""
    if processes() == 1:
        return flag
    import torch
    import torch.distributed as dist

    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags)
    return bool(flags.item())
