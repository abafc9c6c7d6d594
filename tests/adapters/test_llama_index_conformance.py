"""What LlamaIndex asks of an embedding, checked on ours, or on its own for Hugging Face models.

EFFIR_ADAPTER=huggingface pytest tests/adapters/test_llama_index_conformance.py
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import shutil
import threading
import time

import numpy as np
import pytest
from tiny import save_bare

pytest.importorskip("llama_index.core")

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from sentence_transformers import SentenceTransformer

from effir_integrations import load

OURS = os.environ.get("EFFIR_ADAPTER", "effir") == "effir"
PROMPTS = {"query": "w50 ", "document": "w51 "}
TEXTS = ["w1 w2", "w3 w4 w5 w6 w7 w8 w9", "w1", "", " ", "何か"]


def make(folder, *, device="cpu", **settings):
    if OURS:
        from effir_integrations.adapters.llama_index import EffirEmbedding

        return EffirEmbedding(model_name=str(folder), device=device, precision=None, **settings)
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    return HuggingFaceEmbedding(model_name=str(folder), device=device, **settings)


def make_with_cache(folder, store, **settings):
    """Cache in the one way that each class allows."""
    if OURS:
        return make(folder, embeddings_cache=store)
    embedding = make(folder, **settings)
    embedding.embeddings_cache = store
    return embedding


def save(base, name, **options):
    bare = save_bare("qwen3", base / f"{name}-bare", **options)
    load(bare, prompts=PROMPTS).save(str(base / name))
    return base / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama_index"), "model")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama_index_other"), "model", seed=1)


@pytest.fixture(scope="module")
def shared(folder):
    """An embedding that no test changes."""
    return make(folder)


@pytest.fixture
def fresh(folder):
    return make(folder, embed_batch_size=2)


def watch(embedding, monkeypatch, before=lambda: None, after=lambda: None):
    """Run something before and after each call of the real encoder; return the list of calls."""
    model = embedding._encoder.encoder if OURS else embedding._model
    real, calls = model.encode, []

    def encode(*args, **kwargs):
        calls.append(args[0] if args else kwargs["inputs"])
        before()
        try:
            return real(*args, **kwargs)
        finally:
            after()

    monkeypatch.setattr(model, "encode", encode)
    return calls


def same(left, right):
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_is_an_embedding_of_llama_index(shared):
    assert isinstance(shared, BaseEmbedding)


def test_stored_name_is_that_of_the_class(shared):
    assert shared.class_name() == type(shared).__name__


def test_vectors_are_lists_of_python_floats(shared):
    single, batch = shared.get_query_embedding("w1"), shared.get_text_embedding_batch(TEXTS)
    for vector in [single, *batch]:
        assert type(vector) is list and {type(value) for value in vector} == {float}


def test_one_by_one_gives_the_vectors_of_a_batch(shared):
    singles = [shared.get_text_embedding(text) for text in TEXTS]
    same(singles, shared.get_text_embedding_batch(TEXTS))


def test_order_is_kept_across_batches(folder, shared):
    texts = [f"w{number} " * (1 + number % 7) for number in range(33)]
    batches = make(folder, embed_batch_size=5).get_text_embedding_batch(texts)
    same(batches, shared.get_text_embedding_batch(texts))


async def test_async_gives_the_vectors_of_sync(shared):
    same(await shared.aget_text_embedding_batch(TEXTS), shared.get_text_embedding_batch(TEXTS))
    same(await shared.aget_text_embedding("w7"), shared.get_text_embedding("w7"))
    same(await shared.aget_query_embedding("w7"), shared.get_query_embedding("w7"))


def test_serves_one_event_loop_after_the_other(shared):
    first, second = (asyncio.run(shared.aget_query_embedding("w1")) for _ in range(2))
    same(first, second)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.aget_text_embedding_batch(["w1", "w2"]),
        lambda x: x.aget_text_embedding("w1"),
        lambda x: x.aget_query_embedding("w1"),
    ],
    ids=["batch", "text", "query"],
)
async def test_the_event_loop_goes_on_while_texts_are_encoded(fresh, monkeypatch, call):
    entered, released = threading.Event(), threading.Event()

    def wait():
        entered.set()
        assert released.wait(5), "the event loop stood still"

    watch(fresh, monkeypatch, before=wait)
    task = asyncio.create_task(call(fresh))
    while not entered.is_set() and not task.done():
        await asyncio.sleep(0.001)
    released.set()
    await task


async def test_async_batches_never_run_through_the_model_at_once(fresh, monkeypatch):
    running, most = [], []

    def enter():
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)

    watch(fresh, monkeypatch, before=enter, after=running.pop)
    await fresh.aget_text_embedding_batch([f"w{number}" for number in range(20)])
    assert len(most) == 10 and max(most) == 1


def test_the_prompts_of_the_model_are_used(shared, folder):
    model = SentenceTransformer(str(folder), device="cpu")
    query = model.encode_query("w1 w2", normalize_embeddings=True)
    document = model.encode_document("w1 w2", normalize_embeddings=True)
    assert not np.allclose(query, document, atol=1e-2)
    same(shared.get_query_embedding("w1 w2"), query)
    same(shared.get_text_embedding("w1 w2"), document)


def test_takes_embed_batch_size(fresh, monkeypatch):
    calls = watch(fresh, monkeypatch)
    fresh.get_text_embedding_batch(["w1", "w2", "w3"])
    assert [len(call) for call in calls] == [2, 1]


async def test_takes_num_workers(folder, shared):
    embedding = make(folder, num_workers=2, embed_batch_size=2)
    same(await embedding.aget_text_embedding_batch(TEXTS), shared.get_text_embedding_batch(TEXTS))


def test_takes_a_callback_manager(folder):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    make(folder, callback_manager=CallbackManager([handler])).get_text_embedding("w1")
    assert len(handler.get_event_pairs(CBEventType.EMBEDDING)) == 1


def test_takes_a_rate_limiter(folder):
    limiter = TokenBucketRateLimiter(requests_per_minute=600)
    full = limiter._request_tokens
    make(folder, rate_limiter=limiter).get_query_embedding("w1")
    assert limiter._request_tokens < full


def test_takes_a_cache(folder, monkeypatch):
    embedding = make(folder, embeddings_cache=SimpleKVStore())
    calls = watch(embedding, monkeypatch)
    first = embedding.get_text_embedding_batch(["w1", "w2"])
    assert embedding.get_text_embedding_batch(["w1", "w2"]) == first
    assert len(calls) == 1


def test_settings_survive_a_round_trip(shared):
    settings = json.loads(json.dumps(shared.to_dict()))
    again = type(shared).from_dict(settings)
    assert again.to_dict() == shared.to_dict()
    same(again.get_query_embedding("w1"), shared.get_query_embedding("w1"))


def test_settings_with_a_cache_can_be_written_as_json(folder):
    json.loads(make_with_cache(folder, SimpleKVStore()).to_json())


def test_a_pickle_holds_no_weights(shared, folder):
    packed = pickle.dumps(shared)
    assert len(packed) < 5_000 < (folder / "model.safetensors").stat().st_size
    same(pickle.loads(packed).get_query_embedding("w1"), shared.get_query_embedding("w1"))


def test_a_deep_copy_gives_the_same_vectors(shared):
    same(copy.deepcopy(shared).get_query_embedding("w1"), shared.get_query_embedding("w1"))


def test_a_cache_keeps_queries_and_documents_apart(folder):
    own = {"query_instruction": PROMPTS["query"], "text_instruction": PROMPTS["document"]}
    plain = make(folder) if OURS else make(folder, **own)
    cached = make_with_cache(folder, SimpleKVStore(), **own)
    for _ in range(2):
        same(cached.get_text_embedding("w1"), plain.get_text_embedding("w1"))
        same(cached.get_query_embedding("w1"), plain.get_query_embedding("w1"))


def test_a_cache_keeps_models_apart(folder, other_folder):
    store = SimpleKVStore()
    first = make_with_cache(folder, store).get_text_embedding("w1")
    second = make_with_cache(other_folder, store).get_text_embedding("w1")
    assert not np.allclose(first, second, atol=1e-3)


def test_other_weights_at_the_same_place_miss_the_cache_of_a_pipeline(
    folder, other_folder, tmp_path
):
    place, nodes = tmp_path / "model", [TextNode(text="w1")]
    shutil.copytree(folder, place)
    first = get_transformation_hash(nodes, make(place))
    assert get_transformation_hash(nodes, make(place)) == first
    shutil.rmtree(place)
    shutil.copytree(other_folder, place)
    assert get_transformation_hash(nodes, make(place)) != first


def test_the_device_does_not_touch_the_cache_of_a_pipeline(shared, folder):
    nodes = [TextNode(text="w1")]
    anywhere = get_transformation_hash(nodes, make(folder, device=None))
    assert get_transformation_hash(nodes, shared) == anywhere


def test_what_is_no_text_is_refused_without_another_try(fresh, monkeypatch):
    calls = watch(fresh, monkeypatch)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        fresh.get_text_embedding_batch([123])
    assert len(calls) <= 1


async def test_no_texts_give_no_vectors(shared):
    assert shared.get_text_embedding_batch([]) == []
    assert await shared.aget_text_embedding_batch([]) == []


def test_events_are_told_class_and_model(shared, folder):
    payload = shared.to_payload()
    assert payload["class_name"] == type(shared).__name__
    assert payload["model_name"] == str(folder)
