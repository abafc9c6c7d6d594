"""A run that ends in time: work that takes too long is stopped, and what is measured is kept."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OutOfTime(BaseException):
    """Raised in the midst of whatever runs; no `Exception`, which a library may swallow."""


class Clock:
    """Counts down the minutes of a run, in the main thread of a Unix process."""

    def __init__(self, minutes: float) -> None:
        """Start now."""
        self.seconds = 60 * minutes
        self._ends = [time.perf_counter() + self.seconds]
        """Of the run, then of every limit within it."""

    @property
    def left(self) -> float:
        """Seconds until the nearest deadline."""
        return min(self._ends) - time.perf_counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let limits be set while the context lasts."""
        before = signal.signal(signal.SIGALRM, self._ring)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Raise `OutOfTime` in the body after so many seconds, or at a deadline around it.

        Between two steps of the interpreter: a kernel, or a compiler, finishes what it does.
        """
        self._ends.append(time.perf_counter() + seconds)
        self._set()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._ends.pop()
            if len(self._ends) > 1:
                self._set()

    def _set(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3))

    @staticmethod
    def _ring(*signal_and_frame: Any) -> None:
        raise OutOfTime
