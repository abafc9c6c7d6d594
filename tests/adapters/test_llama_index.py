from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny import save_bare

pytest.importorskip("llama_index.core")

from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer

import llama_index.embeddings.effir
from effir_integrations import load
from effir_integrations.adapters.llama_index import EffirEmbedding

TEXTS = ["w1 w2 w3", "w4", "w5 w6"]
PROMPTS = {"query": "w50 ", "document": "w51 "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("llama_index")
    load(save_bare("qwen3", base / "bare"), prompts=PROMPTS).save(str(base / "model"))
    return base / "model"


@pytest.fixture
def other_folder(tmp_path):
    bare = save_bare("qwen3", tmp_path / "other-bare", seed=1)
    load(bare, prompts=PROMPTS).save(str(tmp_path / "other"))
    return tmp_path / "other"


@pytest.fixture
def embedding(folder):
    return EffirEmbedding(folder, precision="fp32")


@pytest.fixture
def place(folder, tmp_path):
    """A copy of the model folder, which a test may change."""
    return shutil.copytree(folder, tmp_path / "model")


def same(left, right):
    np.testing.assert_allclose(left, right, atol=1e-6)


class TestSettings:
    def test_is_found_where_llama_index_keeps_embeddings(self):
        assert llama_index.embeddings.effir.EffirEmbedding is EffirEmbedding

    @pytest.mark.parametrize(
        ("argument", "advice"),
        [
            ("query_instruction", "use query_prompt"),
            ("pooling", "the model's folder says how it pools"),
            ("colour", "choose from callback_manager, device, document_prompt"),
        ],
    )
    def test_unknown_arguments_are_refused_in_one_line(self, folder, argument, advice):
        for make in (EffirEmbedding, EffirEmbedding.from_dict):
            given = {"model_name": str(folder), argument: "x"}
            with pytest.raises(TypeError, match=f"no '{argument}'; {advice}") as error:
                make(given) if make != EffirEmbedding else make(**given)
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("setting", "value", "message"),
        [
            ("max_length", 0, "max_length=0 must be at least 1"),
            ("truncate_dim", -1, "truncate_dim=-1 must be at least 1"),
            ("precision", "fp99", "precision 'fp99' is not known"),
            ("embed_batch_size", 0, "greater than 0"),
            ("embed_batch_size", 4096, "less than or equal to 2048"),
        ],
    )
    def test_settings_out_of_range_are_refused_at_once(self, folder, setting, value, message):
        with pytest.raises(ValueError, match=message):
            EffirEmbedding(folder, **{setting: value})

    def test_what_is_no_store_is_no_cache(self, folder):
        with pytest.raises(TypeError, match="BaseKVStore"):
            EffirEmbedding(folder, embeddings_cache={})

    def test_what_is_no_model_folder_is_refused_at_once(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no model folder"):
            EffirEmbedding(tmp_path / "missing")

    def test_a_loaded_model_is_sent_to_from_model(self, folder):
        with pytest.raises(TypeError, match="from_model"):
            EffirEmbedding(load(folder))

    @pytest.mark.parametrize("name", ["max_length", "query_prompt", "precision", "model_name"])
    def test_what_decides_about_vectors_stays_as_it_is(self, embedding, name):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(embedding, name, None)

    def test_weights_are_loaded_with_the_first_text_and_again_after_unload(self, embedding):
        assert not embedding._encoder.is_loaded
        before = embedding.get_query_embedding("w1")
        embedding.unload()
        assert not embedding._encoder.is_loaded
        same(embedding.get_query_embedding("w1"), before)

    def test_prompts_limit_and_dimension_can_be_set(self, folder):
        embedding = EffirEmbedding(
            folder,
            precision="fp32",
            query_prompt="",
            document_prompt="w7 ",
            max_length=5,
            truncate_dim=8,
        )
        model = load(folder)
        model.max_seq_length = 5
        options = {"normalize_embeddings": True, "truncate_dim": 8}
        same(embedding.get_query_embedding("w1 " * 9), model.encode("w1 " * 9, **options))
        expected = model.encode("w7 w1", **options)
        same(embedding.get_text_embedding("w1"), expected)
        assert embedding.dimension == 8

    def test_a_model_of_inner_products_keeps_the_length_of_its_vectors(self, folder, tmp_path):
        transformer, pooling, _ = load(folder)
        model = SentenceTransformer(modules=[transformer, pooling], similarity_fn_name="dot")
        model.save(str(tmp_path / "dot"))
        vector = EffirEmbedding(tmp_path / "dot", precision="fp32").get_query_embedding("w1")
        same(vector, model.encode_query("w1"))
        assert abs(np.linalg.norm(vector) - 1) > 0.1

    @pytest.mark.parametrize("family", ["bert", "qwen3"])
    def test_texts_without_a_word_have_vectors_of_numbers(self, tmp_path, family):
        embedding = EffirEmbedding(save_bare(family, tmp_path / family), precision="fp32")
        vectors = np.array(embedding.get_text_embedding_batch(["", " ", "\n\n", "w1"]))
        assert np.isfinite(vectors).all()
        model = load(tmp_path / family)
        same(vectors, model.encode(["", " ", "\n\n", "w1"], normalize_embeddings=True))


class TestIdentity:
    def test_settings_with_another_model_behind_them_are_refused(self, place, other_folder):
        settings = EffirEmbedding(place).to_dict()
        shutil.rmtree(place)
        shutil.copytree(other_folder, place)
        with pytest.raises(ValueError, match="whose vectors do not fit; re-index with"):
            EffirEmbedding.from_dict(settings)

    def test_settings_follow_a_model_to_another_place(self, folder, place):
        settings = EffirEmbedding(folder, max_length=9).to_dict()
        moved = EffirEmbedding.from_dict(settings, model_name=str(place))
        assert moved.fingerprint == settings["fingerprint"] and moved.max_length == 9

    def test_weights_that_change_before_they_are_loaded_are_refused(self, place, other_folder):
        embedding = EffirEmbedding(place)
        shutil.rmtree(place)
        shutil.copytree(other_folder, place)
        with pytest.raises(RuntimeError, match="index again"):
            embedding.get_query_embedding("w1")

    @pytest.mark.parametrize(
        "setting",
        [
            {"max_length": 4},
            {"truncate_dim": 8},
            {"query_prompt": ""},
            {"document_prompt": ""},
            {"precision": "bf16"},
        ],
        ids=str,
    )
    def test_every_setting_that_changes_vectors_misses_the_cache_of_a_pipeline(
        self, embedding, folder, setting
    ):
        other = EffirEmbedding(folder, **{"precision": "fp32", **setting})
        nodes = [TextNode(text="w1")]
        first, second = (get_transformation_hash(nodes, x) for x in (embedding, other))
        assert first != second

    def test_settings_read_from_a_file_never_run_code_of_the_folder(self, folder):
        settings = EffirEmbedding(folder, trust_remote_code=True, device="cpu").to_dict()
        assert not settings.keys() & {"trust_remote_code", "device"}
        assert EffirEmbedding.from_dict(settings).trust_remote_code is False

    def test_a_copy_shares_the_weights(self, embedding):
        assert copy.deepcopy(embedding)._encoder is embedding._encoder

    def test_a_pickle_leaves_cache_and_weights_behind(self, folder):
        embedding = EffirEmbedding(folder, embeddings_cache=SimpleKVStore(), max_length=9)
        embedding.get_text_embedding_batch([f"w{number}" for number in range(50)])
        packed = pickle.dumps(embedding)
        assert len(packed) < 2_000
        again = pickle.loads(packed)
        assert again.embeddings_cache is None and embedding.embeddings_cache is not None
        assert again.to_dict() == embedding.to_dict()


class TestLoadedModel:
    def test_gives_the_vectors_of_the_model(self, folder):
        model = load(folder)
        embedding = EffirEmbedding.from_model(model, embed_batch_size=7)
        same(
            embedding.get_text_embedding_batch(TEXTS),
            model.encode_document(TEXTS, normalize_embeddings=True),
        )
        assert embedding.embed_batch_size == 7 and embedding.precision is None

    def test_its_prompts_and_weights_are_part_of_its_fingerprint(self, folder):
        def fingerprint(**prompts):
            return EffirEmbedding.from_model(load(folder, prompts=prompts)).fingerprint

        changed = load(folder)
        next(iter(changed.parameters())).data.add_(1)
        others = {fingerprint(query="w1 "), EffirEmbedding.from_model(changed).fingerprint}
        assert len(others | {fingerprint()}) == 3
        assert fingerprint() == fingerprint()

    def test_travels_with_its_weights(self, folder):
        embedding = EffirEmbedding.from_model(load(folder))
        again = pickle.loads(pickle.dumps(embedding))
        same(again.get_query_embedding("w1"), embedding.get_query_embedding("w1"))
        assert again.fingerprint == embedding.fingerprint

    def test_its_settings_alone_do_not_bring_it_back(self, folder):
        settings = EffirEmbedding.from_model(load(folder)).to_dict()
        with pytest.raises(ValueError, match="give the loaded model to EffirEmbedding.from_model"):
            EffirEmbedding.from_dict(settings)

    def test_settings_of_loading_and_unknown_ones_are_refused(self, folder):
        with pytest.raises(ValueError, match="precision: only for a model given by name"):
            EffirEmbedding.from_model(load(folder), precision="bf16")
        with pytest.raises(TypeError, match="no 'pooling'"):
            EffirEmbedding.from_model(load(folder), pooling="mean")


class TestCache:
    def test_vectors_are_found_by_other_objects_and_after_a_round_trip(self, folder, tmp_path):
        store = SimpleKVStore()
        EffirEmbedding(folder, embeddings_cache=store).get_text_embedding_batch(TEXTS)
        store.persist(str(tmp_path / "cache.json"))
        again = SimpleKVStore.from_persist_path(str(tmp_path / "cache.json"))
        embedding = EffirEmbedding(folder, embeddings_cache=again)
        found = embedding.get_text_embedding_batch(TEXTS)
        assert not embedding._encoder.is_loaded
        same(found, EffirEmbedding(folder).get_text_embedding_batch(TEXTS))

    @pytest.mark.parametrize(
        "setting",
        [{"max_length": 4}, {"truncate_dim": 8}, {"document_prompt": ""}, {"precision": "bf16"}],
        ids=str,
    )
    def test_other_settings_have_entries_of_their_own(self, folder, setting):
        store, text = SimpleKVStore(), "w1 w2 w3 w4 w5 w6"
        EffirEmbedding(folder, precision="fp32", embeddings_cache=store).get_text_embedding(text)
        options = {"precision": "fp32", **setting}
        cached = EffirEmbedding(folder, embeddings_cache=store, **options)
        plain = EffirEmbedding(folder, **options)
        same(cached.get_text_embedding(text), plain.get_text_embedding(text))

    def test_another_query_prompt_keeps_the_entries_of_documents(self, folder):
        store = SimpleKVStore()
        EffirEmbedding(folder, embeddings_cache=store).get_text_embedding("w1")
        other = EffirEmbedding(folder, embeddings_cache=store, query_prompt="w9 ")
        other.get_text_embedding("w1")
        assert not other._encoder.is_loaded

    async def test_roles_are_kept_apart_in_tasks_that_run_at_once(self, folder, embedding):
        cached = EffirEmbedding(folder, precision="fp32", embeddings_cache=SimpleKVStore())
        for _ in range(2):
            query, batch, document = await asyncio.gather(
                cached.aget_query_embedding("w1"),
                cached.aget_text_embedding_batch(["w1"]),
                cached.aget_text_embedding("w1"),
            )
            same(query, embedding.get_query_embedding("w1"))
            same(batch[0], document)
            same(document, embedding.get_text_embedding("w1"))

    def test_the_view_of_another_embedding_is_not_narrowed_twice(self, folder, other_folder):
        first = EffirEmbedding(folder, embeddings_cache=SimpleKVStore())
        first.get_text_embedding("w1")
        again = EffirEmbedding(folder, embeddings_cache=first.embeddings_cache)
        again.get_text_embedding("w1")
        assert not again._encoder.is_loaded

    async def test_entries_can_be_listed_and_deleted(self, folder):
        cache = EffirEmbedding(folder, embeddings_cache=SimpleKVStore()).embeddings_cache
        cache.put_all([("w1", {"a": [1.0]})])
        await cache.aput("w2", {"b": [2.0]})
        assert cache.get_all() == await cache.aget_all() == {"w1": {"a": [1.0]}, "w2": {"b": [2.0]}}
        assert cache.delete("w1") and await cache.adelete("w2")
        assert not cache.delete("w1") and cache.get("w1") is None and await cache.aget("w2") is None


class TestThreadsAndTasks:
    async def test_works_on_after_a_call_that_was_cancelled_half_way(self, embedding, monkeypatch):
        expected = embedding.get_text_embedding_batch(TEXTS)
        entered, released = threading.Event(), threading.Event()
        encoder = embedding._encoder.encoder
        real = encoder.encode

        def encode(*args, **kwargs):
            entered.set()
            assert released.wait(5)
            return real(*args, **kwargs)

        monkeypatch.setattr(encoder, "encode", encode)
        running = asyncio.create_task(embedding.aget_text_embedding_batch(TEXTS))
        waiting = asyncio.create_task(embedding.aget_query_embedding("w1"))
        while not entered.is_set():
            await asyncio.sleep(0.001)
        for task in (running, waiting):
            task.cancel()
        done = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [type(result) for result in done] == [asyncio.CancelledError] * 2
        released.set()
        same(await embedding.aget_text_embedding_batch(TEXTS), expected)

    def test_event_loops_of_several_threads_get_the_same_vectors(self, embedding):
        expected = embedding.get_text_embedding_batch(TEXTS)

        def one_loop(_):
            return asyncio.run(embedding.aget_text_embedding_batch(TEXTS))

        with ThreadPoolExecutor(4) as threads:
            for vectors in threads.map(one_loop, range(8)):
                same(vectors, expected)

    def test_threads_that_encode_split_and_count_do_not_meet(self, folder):
        embedding = EffirEmbedding(folder, precision="fp32")
        long, expected = "w1 " * 99, embedding.get_text_embedding_batch(TEXTS)

        def work(number):
            if number % 2:
                return embedding.splitter().split_text(long) and None
            embedding._encoder.truncation([long])
            return embedding.get_text_embedding_batch(TEXTS)

        with ThreadPoolExecutor(4) as threads:
            for vectors in threads.map(work, range(16)):
                if vectors is not None:
                    same(vectors, expected)


class TestLongNodes:
    def test_what_is_cut_off_is_told_once(self, folder, caplog):
        # the prompt, BOS, 17 words and EOS are 20 tokens, of which 10 are read
        embedding = EffirEmbedding(folder, max_length=10)
        with caplog.at_level(logging.WARNING):
            embedding.get_text_embedding_batch(["w1", "w11 " * 17])
            embedding.get_text_embedding("w11 " * 30)
        (record,) = caplog.records
        assert record.getMessage().startswith(
            "1 of 2 documents are longer than the 10 tokens that "
        )
        assert "50 % of their tokens are lost" in record.getMessage()
        assert "split documents with the splitter() of the embedding" in record.getMessage()

    def test_nodes_and_queries_that_fit_are_not_talked_about(self, folder, caplog):
        embedding = EffirEmbedding(folder, max_length=10)
        with caplog.at_level(logging.WARNING):
            embedding.get_text_embedding_batch(["w11 " * 7, ""])
            embedding.get_query_embedding("w11 " * 30)
        assert not caplog.records

    def test_settings_as_json_hold_what_decides_about_vectors(self, folder):
        settings = json.loads(EffirEmbedding(folder, max_length=9).to_json())
        assert settings["max_length"] == 9 and settings["fingerprint"].startswith("sha256 ")
