"""Connect to a Ray cluster, or start a local one, without its noise."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCAL_STORE_BYTES = 1 << 28  # holds the descriptions of parts alone


@contextmanager
def cluster(ray: Any, address: str | None, processors: int, show_progress: bool) -> Iterator[None]:
    """Connect to a cluster, or start one, and leave it again.

    Args:
        ray: The package.
        address: None uses the cluster that this process is connected to, or starts one.
        processors: That a cluster which is started must have room for, at least.
        show_progress: Show Ray's messages.
    """
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {
        "log_to_driver": show_progress,
        "logging_level": logging.INFO if show_progress else logging.ERROR,
    }
    # its C++ side reports harmless things as errors, and heeds no logging level
    variables = {} if show_progress else {"RAY_BACKEND_LOG_LEVEL": "fatal"}
    if address is None:
        address = "local"
        options |= {
            "num_cpus": max(os.cpu_count() or 1, processors),
            "include_dashboard": False,
            "object_store_memory": _LOCAL_STORE_BYTES,
        }
        variables["RAY_USAGE_STATS_ENABLED"] = "0"
    with _environment(variables):
        ray.init(address=address, **options)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set those variables that are not set, while the context lasts."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def progress(context: Any, shown: bool) -> Iterator[None]:
    """Have Ray Data draw its bars and write its messages, or neither, while the context lasts."""
    names = ("enable_progress_bars", "print_on_execution_start")
    before = {name: getattr(context, name) for name in names}
    data_logger = logging.getLogger("ray.data")
    level = data_logger.level
    for name in names:
        setattr(context, name, shown)
    if not shown:
        data_logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        data_logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
