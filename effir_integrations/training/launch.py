"""What a launcher such as accelerate or torchrun says about the processes that train together."""

from __future__ import annotations

import os

import torch


def is_main_process() -> bool:
    """Say whether this is the process that writes: rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def processes() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_sharded() -> bool:
    """Say whether the launcher cuts the weights up between the processes (FSDP, DeepSpeed)."""
    names = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    return any(os.environ.get(name, "false").lower() in ("1", "true") for name in names)


def local_device() -> str | None:
    """Return this process's own GPU where several train together, else None: the usual choice."""
    if processes() > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return None
