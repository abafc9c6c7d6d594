"""How long runs take on a device, how much memory they need, and whether vectors agree."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Run = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Once:
    """One run."""

    seconds: float
    """Until the device has finished."""
    peak: float | None
    """Most memory in use meanwhile, GB, what was there before included; None on a CPU."""
    value: Any
    """What it returned."""


def synchronize(device: str) -> None:
    """Wait until the device has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def free() -> None:
    """Give back what nobody holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_use(device: str) -> float | None:
    """Return the memory in use, GB; None on a CPU."""
    return torch.cuda.memory_allocated(device) / 1e9 if device.startswith("cuda") else None


def time_once(run: Run, device: str) -> Once:
    """Run once, by the clock."""
    cuda = device.startswith("cuda")
    synchronize(device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    value = run()
    synchronize(device)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if cuda else None
    return Once(seconds=seconds, peak=peak, value=value)


def time_in_turns(runs: Mapping[str, Run], rounds: int, device: str) -> dict[str, dict[str, Any]]:
    """Time runs that have run before, in turns; each round begins with another.

    Returns:
        name -> `seconds` of every round, and the highest `peak`.
    """
    names = list(runs)
    gc.collect()
    found: dict[str, list[Once]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(time_once(runs[name], device))
    return {
        name: {
            "seconds": [each.seconds for each in all_rounds],
            "peak": max((each.peak for each in all_rounds if each.peak is not None), default=None),
        }
        for name, all_rounds in found.items()
    }


def least_cosine(vectors: Any, expected: Any) -> float:
    """Return the smallest cosine of two vectors of one text; NaN where a number is NaN."""
    first, second = (np.asarray(each, dtype=np.float64) for each in (vectors, expected))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(((first * second).sum(1) / lengths).min())


def largest_difference(vectors: Any, expected: Any) -> float:
    """Return the largest difference of two vectors, relative to the length of the expected."""
    first, second = (np.asarray(each, dtype=np.float64) for each in (vectors, expected))
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.linalg.norm(first - second, axis=1) / np.linalg.norm(second, axis=1)
    return float(apart.max())


def rate(count: int, seconds: Sequence[float]) -> str:
    """Format how many a second, by the median round, and the slowest and fastest round."""
    median, slow, fast = (count / function(seconds) for function in (statistics.median, max, min))
    return f"{figure(median)} ({figure(slow)} to {figure(fast)})"


def figure(value: float | None) -> str:
    """Format a number with three or four significant digits; nothing as a dash."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
