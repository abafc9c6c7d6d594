"""Encode the texts of many requests together, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Encode = Callable[[Sequence[str], str], np.ndarray]
"""Takes texts and a role, returns (texts, dimension), fp32."""


class Busy(Exception):  # noqa: N818 - the state of the server, not a fault
    """As many texts wait as may."""


@dataclass
class _Waiting:
    texts: Sequence[str]
    role: str
    answer: asyncio.Future[np.ndarray] = field(compare=False)


class Batcher:
    """Hands all texts that wait to one encoder, in one call; meanwhile the next ones gather.

    So a lone request waits for nobody, and many requests share their batches. One thread encodes.
    """

    def __init__(
        self, encode: Encode, *, most_waiting: int = 1024, most_at_once: int = 256
    ) -> None:
        """Start nothing; `run` is what works.

        Args:
            encode: Called on a thread of its own, once at a time.
            most_waiting: Texts that may wait; more are refused.
            most_at_once: Texts of one call, so that none waits long behind many.
        """
        self._encode = encode
        self._most_waiting = most_waiting
        self._most_at_once = most_at_once
        self._waiting: deque[_Waiting] = deque()
        self._texts = 0
        self._arrived = asyncio.Event()

    async def vectors(self, texts: Sequence[str], role: str) -> np.ndarray:
        """Return the vectors of some texts, (texts, dimension), fp32.

        Raises:
            Busy: Too many texts wait already.
        """
        if self._texts + len(texts) > self._most_waiting:
            raise Busy(f"{self._texts} texts are waiting, of {self._most_waiting} that may")
        waiting = _Waiting(texts, role, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._texts += len(texts)
        self._arrived.set()
        return await waiting.answer

    async def run(self) -> None:
        """Encode what arrives, until it is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as thread:
            while True:
                await self._arrived.wait()
                chosen = self._next()
                texts = [text for each in chosen for text in each.texts]
                try:
                    vectors: Any = await loop.run_in_executor(
                        thread, self._encode, texts, chosen[0].role
                    )
                except Exception as error:
                    _fail(chosen, error)
                else:
                    _answer(chosen, vectors)

    def _next(self) -> list[_Waiting]:
        """Take the first request, and those behind it of the same role, as far as there is room."""
        first = self._waiting.popleft()
        chosen, others, room = [first], deque[_Waiting](), self._most_at_once - len(first.texts)
        while self._waiting:
            each = self._waiting.popleft()
            if each.role == first.role and len(each.texts) <= room:
                chosen.append(each)
                room -= len(each.texts)
            else:
                others.append(each)
        self._waiting = others
        self._texts -= sum(len(each.texts) for each in chosen)
        if not others:
            self._arrived.clear()
        return chosen


def _answer(chosen: Sequence[_Waiting], vectors: np.ndarray) -> None:
    start = 0
    for each in chosen:
        # whoever has gone is no longer waiting
        if not each.answer.done():
            each.answer.set_result(vectors[start : start + len(each.texts)])
        start += len(each.texts)


def _fail(chosen: Sequence[_Waiting], error: Exception) -> None:
    for each in chosen:
        if not each.answer.done():
            each.answer.set_exception(error)
