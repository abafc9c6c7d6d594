"""Threads that call at once each get their own vectors, and copies of an encoder work."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny import save_bare

from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.calibration import load_calibration
from effir_integrations.compression.analyze import analyze
from effir_integrations.compression.reconstruct import ReconstructConfig, reconstruct
from effir_integrations.encoding.turns import Turns
from effir_integrations.loading import load


def hammer(encoder, seconds: float, threads: int = 8) -> tuple[int, list[str]]:
    """Call from many threads, each with texts of its own; return the calls and what was wrong."""
    texts = [
        [f"w{(7 * thread + x) % 60} w{x % 60}" for x in range(12)] for thread in range(threads)
    ]
    expected = [encoder.encode(mine, prompt="w1 w2 w3 w4 ") for mine in texts]
    wrong: list[str] = []
    calls = [0] * threads
    end = time.monotonic() + seconds

    def work(thread: int) -> None:
        while time.monotonic() < end or not calls[thread]:
            start = calls[thread] % 6
            found = encoder.encode(texts[thread][start:], prompt="w1 w2 w3 w4 ")
            difference = np.abs(found - expected[thread][start:]).max()
            if difference > 1e-6:
                wrong.append(f"thread {thread}: {difference}")
            calls[thread] += 1

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(calls), wrong


def test_eight_threads_at_once_get_their_own_vectors(tmp_path):
    calls, wrong = hammer(load(save_bare("qwen3", tmp_path), device="cpu"), seconds=2)
    assert calls >= 8 and wrong == []


@pytest.fixture
def saved(tmp_path):
    load(save_bare("qwen3", tmp_path / "bare"), device="cpu").save(str(tmp_path / "model"))
    return tmp_path / "model"


@pytest.mark.parametrize("kind", [load, SentenceTransformer])
def test_adapters_of_one_model_in_several_threads_keep_their_own_limits(saved, kind):
    model = kind(str(saved), device="cpu")
    own, texts = model.max_seq_length, [f"w{x} w{x + 1} w3 " * 9 for x in range(5)]
    expected = {}
    for limit in (4, 9, 20):
        alone = load(saved, device="cpu", max_length=limit)
        expected[limit] = alone.encode(texts, normalize_embeddings=True)
    wrong: list[int] = []

    def work(limit: int) -> None:
        lazy = LazyEncoder(model, max_length=limit)
        for _ in range(20):
            found = lazy.embed(texts, "document")
            if lazy.limit != limit or np.abs(found - expected[limit]).max() > 1e-5:
                wrong.append(limit)

    together(*[lambda limit=limit: work(limit) for limit in expected])
    assert wrong == [] and model.max_seq_length == own


def together(*calls) -> None:
    """Run calls on a thread each, and raise what one of them raised."""
    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(call) for call in calls]:
            done.result()


@pytest.mark.parametrize("verb", ["analyze", "reconstruct"])
def test_encode_and_a_verb_that_watches_the_model_take_turns(saved, verb):
    encoder = load(saved, device="cpu")
    texts = [f"w{x} w{x % 7}" for x in range(40)]
    calibration = load_calibration(texts)
    expected = encoder.encode(texts)
    started = threading.Event()
    encoder[0].model.layers[0].register_forward_pre_hook(lambda *given: started.set())

    def watch() -> None:
        if verb == "analyze":
            analyze(encoder, calibration, batch_tokens=8)
        else:
            config = ReconstructConfig(keep_neurons=0.5, multiple_of=8, batch_tokens=8)
            reconstruct(encoder, calibration, config)

    def encode() -> None:
        started.wait(20)
        for _ in range(20):
            np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-6, rtol=0)

    together(watch, encode)


@pytest.mark.slow
def test_eight_threads_at_once_for_a_minute(tmp_path):
    calls, wrong = hammer(load(save_bare("qwen3", tmp_path), device="cpu"), seconds=60)
    assert calls > 100 and wrong == []


def test_a_forward_pass_of_another_thread_is_left_alone(tmp_path):
    encoder = load(save_bare("qwen3", tmp_path), device="cpu")
    features = encoder.preprocess(["w1 w2 w3", "w4"])
    expected = encoder(dict(features))["token_embeddings"].detach()
    stop = threading.Event()

    def encode() -> None:
        while not stop.is_set():
            encoder.encode(["w5 w6", "w7"])

    worker = threading.Thread(target=encode)
    worker.start()
    try:
        for _ in range(50):
            assert (encoder(dict(features))["token_embeddings"] == expected).all()
    finally:
        stop.set()
        worker.join()


def test_copies_of_an_encoder_encode(tmp_path):
    encoder = load(save_bare("bert", tmp_path), device="cpu")
    expected = encoder.encode(["w1 w2"])
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        np.testing.assert_allclose(other.encode(["w1 w2"]), expected, atol=1e-6, rtol=0)


def test_a_copy_of_held_turns_is_free():
    turns = Turns()
    with turns, turns:
        taken = []
        other = copy.deepcopy(turns)

        def take() -> None:
            with other:
                taken.append(True)

        worker = threading.Thread(target=take)
        worker.start()
        worker.join(5)
        assert taken == [True]
