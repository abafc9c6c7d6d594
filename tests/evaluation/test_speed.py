from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from effir_integrations.encoder.search_vectors import Role
from effir_integrations.evaluation import speed as speed_module
from effir_integrations.evaluation.speed import (
    Speed,
    encode_timed,
    interleaved_speed,
    query_latency,
)

TEXTS = [f"w{row} w{row + 20}" for row in range(10)]


class Recorded(SentenceTransformer):
    """Notes what is encoded; on the clock of the test, a call takes exactly `seconds`."""

    def __init__(self, path: Path, name: str = "", seconds: Iterable[float] = (1.0,)):
        super().__init__(str(path), device="cpu")
        self.calls: list[tuple[str, int]] = []
        self.turns: list[str] = []
        self.name, self.seconds = name, itertools.cycle(seconds)

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        self.calls.append(("query", len(inputs)))
        CLOCK.now += next(self.seconds)
        return super().encode_query(inputs, **options)

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        self.calls.append(("document", len(inputs)))
        self.turns.append(self.name)
        CLOCK.now += next(self.seconds)
        return super().encode_document(inputs, **options)


class Clock:
    """Stands still but for what `Recorded` models take, so that a busy machine changes nothing."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_module, "time", CLOCK)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", ["query", "document"])
def test_the_rate_is_that_of_the_call_after_the_warm_up(model_folder: Path, kind: Role):
    model = Recorded(model_folder, seconds=[7.0, 2.0])

    vectors, rate = encode_timed(model, TEXTS, kind=kind, batch_size=4)

    assert model.calls == [(kind, 4), (kind, 10)]
    assert vectors.shape == (10, 32)
    assert rate == 10 / 2.0


def test_the_real_clock_is_read(model: SentenceTransformer):
    start = time.perf_counter()
    _, rate = encode_timed(model, TEXTS, kind="document")
    latency = query_latency(model, TEXTS, repeats=3)
    elapsed = time.perf_counter() - start

    assert 0 < len(TEXTS) / rate < elapsed
    assert 0 < latency < elapsed


@pytest.mark.usefixtures("clock")
def test_the_latency_is_the_median_of_single_queries_after_the_warm_up(model_folder: Path):
    model = Recorded(model_folder, seconds=[9, 9, 9, 9, 9, 4, 1, 100, 3, 2])

    assert query_latency(model, TEXTS[:3], repeats=5) == 3
    assert model.calls == [("query", 1)] * (5 + 5)


@pytest.mark.usefixtures("clock")
def test_models_take_turns_and_keep_their_own_figures(model_folder: Path):
    first = Recorded(model_folder, "first", seconds=[1.0])
    second = Recorded(model_folder, "second", seconds=[4.0])
    first.turns = second.turns

    speeds = interleaved_speed([first, second], TEXTS, TEXTS[:2], rounds=3, repeats=2)

    # Each turn encodes documents twice: the warm-up and what is timed.
    turns = ["first", "second", "second", "first", "first", "second"]
    assert second.turns[::2] == second.turns[1::2] == turns
    assert speeds == [
        Speed(documents_per_second=10.0, queries_per_second=2.0, query_latency=1.0),
        Speed(documents_per_second=2.5, queries_per_second=0.5, query_latency=4.0),
    ]


@pytest.mark.usefixtures("clock")
def test_the_median_of_the_rounds_is_taken(model_folder: Path):
    # A round: documents and queries, each with a warm-up; five unmeasured queries and a timed one.
    rounds = [[0, seconds, 0, seconds, 0, 0, 0, 0, 0, seconds] for seconds in (50, 2, 1)]
    model = Recorded(model_folder, seconds=itertools.chain(*rounds))

    assert interleaved_speed([model], TEXTS, TEXTS, rounds=3, repeats=1) == [
        Speed(documents_per_second=5.0, queries_per_second=5.0, query_latency=2)
    ]


def test_timing_nothing_is_refused(model: SentenceTransformer):
    with pytest.raises(ValueError, match="no query texts"):
        encode_timed(model, [], kind="query")
    with pytest.raises(ValueError, match="0 queries, repeats=50"):
        query_latency(model, [])
    with pytest.raises(ValueError, match="repeats=0"):
        query_latency(model, TEXTS, repeats=0)
    with pytest.raises(ValueError, match="rounds=0"):
        interleaved_speed([model], TEXTS, TEXTS, rounds=0)
