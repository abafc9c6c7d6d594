"""Locks that belong to what they guard: copies and forked children of a process have their own."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

_RENEWED: WeakSet[Any] = WeakSet()


def _renew() -> None:
    for renewed in list(_RENEWED):
        renewed.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class CallLock:
    """Lets threads use an encoder one after the other; its copies start unlocked.

    In a forked child a lock that another thread held is made again: that thread is not there to
    give it back.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _RENEWED.add(self)

    def renew(self) -> None:
        """Free the lock of a thread that does not exist."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return CallLock, ()


class OneThread:
    """Runs calls on a thread of its own, in their order; copies and forked children start one."""

    def __init__(self, name: str) -> None:
        """Start no thread before the first call.

        Args:
            name: Of the thread.
        """
        self._name = name
        self.renew()
        _RENEWED.add(self)

    def renew(self) -> None:
        """Leave a thread that does not exist in this process."""
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)

    def __reduce__(self) -> tuple[Any, ...]:
        return OneThread, (self._name,)


def call_lock(shared: Any) -> CallLock:
    """Return the lock under which all users of an encoder or of a pool of processes call it.

    Args:
        shared: An object, or a dictionary such as a pool; its lock is kept in itself.
    """
    state = shared if isinstance(shared, dict) else vars(shared)
    # one step, so that two threads get the same
    lock: CallLock = state.setdefault("_call_lock", CallLock())
    return lock
