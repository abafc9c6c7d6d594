"""Locks that belong to what they guard: copies and forked children of a process have their own."""

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


def turns_of(shared: Any) -> Turns:
    """Return the turns that all users of an encoder or of a pool of processes take.

    Args:
        shared: An object, or a dictionary such as a pool; its turns are kept in itself.
    """
    state = shared if isinstance(shared, dict) else vars(shared)
    turns: Turns = state.setdefault("_turns", Turns())  # one step: two threads get the same
    return turns
