"""Threads that call at once each get their own vectors, and copies of an encoder work."""

from __future__ import annotations

import copy
import os
import pickle
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fresh
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny import save_bare

from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.call_lock import CallLock
from effir_integrations.encoder.loading import load
from effir_integrations.pruning.analyze import analyze
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.reconstruct import reconstruct


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


class Thread(threading.Thread):
    """A worker of a pool that is quick to start: the stock loop, in a thread."""

    def __init__(self, model, given: queue.Queue, made: queue.Queue) -> None:
        work = SentenceTransformer._multi_process_worker
        super().__init__(target=work, args=("cpu", model, given, made), daemon=True)
        self.start()


@pytest.fixture
def pool(saved):
    given, made = queue.Queue(), queue.Queue()
    workers = [Thread(load(saved, device="cpu"), given, made) for _ in range(2)]
    return {"input": given, "output": made, "processes": workers}


def test_threads_that_share_a_pool_each_get_the_vectors_of_their_texts(saved, pool):
    encoder = load(saved, device="cpu")
    texts = [[f"w{thread} w{x}" for x in range(20)] for thread in range(8)]
    expected = [encoder.encode(mine) for mine in texts]

    def work(thread: int) -> None:
        for _ in range(3):
            found = encoder.encode(texts[thread], pool=pool, chunk_size=3)
            np.testing.assert_allclose(found, expected[thread], atol=1e-6, rtol=0)

    together(*[lambda thread=thread: work(thread) for thread in range(8)])


def test_a_pool_that_still_holds_results_of_an_interrupted_call_is_refused(
    saved, pool, monkeypatch
):
    encoder = load(saved, device="cpu")
    with pytest.raises(ValueError, match="only strings"):
        encoder.encode(["w1", 5], pool=pool)
    assert encoder.encode(["w1", "w2"], pool=pool).shape == (2, 32)

    def interrupt(pool, poll_interval=1.0):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(encoder, "_get_worker_result", interrupt)
        encoder.encode(["w3", "w4"], pool=pool)
    with pytest.raises(RuntimeError, match="start a new one"):
        encoder.encode(["w1", "w2"], pool=pool)


_FORKS = """
import asyncio, os, signal, sys, threading, time
import numpy as np
from effir_integrations import load
from effir_integrations.adapters.lazy_encoder import LazyEncoder

encoder = load(sys.argv[1], device="cpu")
lazy = LazyEncoder(encoder)
texts = [f"w{x} w{x % 7}" for x in range(40)]
expected = encoder.encode(texts)
asyncio.run(lazy.arun(lambda: lazy.embed(texts, "query")))  # its thread is no child's

def encode():
    while True:
        encoder.encode(texts)

threading.Thread(target=encode, daemon=True).start()
for _ in range(8):
    time.sleep(0.01)
    child = os.fork()
    if not child:
        signal.alarm(20)
        same = np.allclose(encoder.encode(texts), expected, atol=1e-6, rtol=0)
        found = asyncio.run(lazy.arun(lambda: lazy.embed(texts, "query")))
        os._exit(0 if same and found.shape == expected.shape else 1)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_a_thread_encodes_encodes_too(saved):
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    made = fresh.run(["-c", _FORKS, saved], env=environment, timeout=240)
    assert made.stdout.split() == ["0"] * 8, made.stderr


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
    turns = CallLock()
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
