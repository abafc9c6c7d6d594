"""A lock that travels with an encoder to worker processes."""

from __future__ import annotations

import threading
from typing import Any


class Turns:
    """Lets threads use an encoder one after the other; its copies start unlocked."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Turns, ()
