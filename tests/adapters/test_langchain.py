from __future__ import annotations

import asyncio
import pickle
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import check_space, load

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from effir_integrations.adapters.langchain import EffirEmbeddings

TEXTS = ["w1 w2\nw3", "w4", "w5 w6 w7 w8"]
QUERY_PROMPT, DOCUMENT_PROMPT = "w50 ", "w51 w52 "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("langchain")
    prompts = {"query": QUERY_PROMPT, "document": DOCUMENT_PROMPT}
    load(save_bare("qwen3", base / "bare"), prompts=prompts).save(str(base / "model"))
    return base / "model"


@pytest.fixture
def embeddings(folder):
    return EffirEmbeddings(folder, precision="fp32")


class _Tiny:
    @pytest.fixture(autouse=True)
    def _take_folder(self, folder):
        self.folder = folder

    @property
    def embeddings_class(self):
        return EffirEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.folder, "precision": "fp32"}


class TestUnitsOfLangChain(_Tiny, EmbeddingsUnitTests):
    pass


class TestIntegrationOfLangChain(_Tiny, EmbeddingsIntegrationTests):
    pass


def test_roles_get_the_prompts_of_the_model(folder, embeddings):
    encoder = load(folder, precision="fp32")
    expected = encoder.encode_document(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-6)
    query = encoder.encode_query(TEXTS[0], normalize_embeddings=True)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), query, atol=1e-6)
    assert not np.allclose(query, expected[0], atol=1e-3)


def test_prompts_that_are_given_replace_those_of_the_model(folder, embeddings):
    swapped = EffirEmbeddings(
        folder, precision="fp32", query_prompt=DOCUMENT_PROMPT, document_prompt=QUERY_PROMPT
    )
    as_query = swapped.embed_documents(TEXTS)[0]
    np.testing.assert_allclose(as_query, embeddings.embed_query(TEXTS[0]), atol=1e-6)
    as_document = swapped.embed_query(TEXTS[0])
    np.testing.assert_allclose(as_document, embeddings.embed_documents(TEXTS)[0], atol=1e-6)


def test_line_breaks_reach_the_tokenizer(tmp_path):
    """Of a tokenizer that knows them: one of words alone would drop them on its own."""
    bare = save_bare("qwen2", tmp_path / "model")
    embeddings = EffirEmbeddings(bare, precision="fp32")
    broken, spaced = embeddings.embed_documents(["ab\ncd", "ab cd"])
    assert not np.allclose(broken, spaced, atol=1e-4)
    np.testing.assert_allclose(broken, load(bare).encode("ab\ncd"), atol=1e-6)


def test_lengths_and_dimensions_are_cut(folder):
    short = EffirEmbeddings(folder, precision="fp32", max_length=4, truncate_dim=8)
    bare = EffirEmbeddings(folder, precision="fp32", truncate_dim=8, document_prompt="")
    # BOS, two tokens of the prompt and EOS are four
    first, second = short.embed_documents(["w1 " * 9, "w2"])
    assert len(first) == 8
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert not np.allclose(*bare.embed_documents(["w1 " * 9, "w2"]), atol=1e-3)


def test_a_loaded_model_serves(folder, embeddings):
    loaded = EffirEmbeddings(load(folder, precision="fp32"))
    np.testing.assert_allclose(
        loaded.embed_documents(TEXTS), embeddings.embed_documents(TEXTS), atol=1e-6
    )


def test_arguments_that_mean_nothing_here_are_refused(folder):
    with pytest.raises(TypeError, match="pooling"):
        EffirEmbeddings(folder, pooling="mean")
    with pytest.raises(TypeError, match="positional"):
        EffirEmbeddings(folder, "cpu")


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("model_name", "use model$"),
        ("model_kwargs", "give device, precision, revision and trust_remote_code by themselves"),
        ("encode_kwargs", "prompts are query_prompt and document_prompt, and vectors are norm"),
        ("batch_size", "the encoder cuts its own batches, by tokens"),
        ("colour", "choose from device, document_prompt, "),
    ],
)
def test_arguments_of_other_classes_get_a_hint(argument, advice):
    with pytest.raises(TypeError, match=f"^EffirEmbeddings has no '{argument}'; {advice}"):
        EffirEmbeddings(**{argument: "x"})


def test_another_model_than_the_one_expected_is_refused(folder, embeddings, tmp_path):
    again = EffirEmbeddings(folder, fingerprint=embeddings.fingerprint)
    assert again.fingerprint == embeddings.fingerprint
    other = save_bare("qwen3", tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="whose vectors do not fit; re-index with"):
        EffirEmbeddings(other, fingerprint=embeddings.fingerprint)


def test_a_store_that_another_model_filled_is_found_out(embeddings, tmp_path):
    store = InMemoryVectorStore(embeddings)
    store.add_texts(TEXTS)
    vectors, texts = zip(*((x["vector"], x["text"]) for x in store.store.values()), strict=True)
    assert check_space(embeddings.embed_documents, vectors, texts) > 0.999
    other = EffirEmbeddings(save_bare("qwen3", tmp_path / "other", seed=1))
    with pytest.raises(ValueError, match=r"3 of 3 vectors are not .*cosine down to"):
        check_space(other.embed_documents, vectors, texts)


def test_texts_that_are_no_list_of_strings_are_refused(embeddings):
    with pytest.raises(ValueError, match="give a list of strings"):
        embeddings.embed_documents("w1 w2")
    with pytest.raises(ValueError, match="text 0 of 1 is int"):
        embeddings.embed_query(3)


def test_documents_are_embedded_in_the_order_of_what_holds_them(embeddings):
    expected = embeddings.embed_documents(TEXTS)
    for held in (tuple(TEXTS), dict.fromkeys(TEXTS).keys(), np.array(TEXTS)):
        np.testing.assert_allclose(embeddings.embed_documents(held), expected, atol=1e-6)
    for bad, message in (
        (None, "inputs is None"),
        (set(TEXTS), "has no order"),
        (iter(TEXTS), "read only once"),
    ):
        with pytest.raises(ValueError, match=message):
            embeddings.embed_documents(bad)


def test_no_documents_give_no_vectors(embeddings):
    assert embeddings.embed_documents([]) == []


def test_a_pickle_is_small_and_embeds_alike(embeddings):
    vector = embeddings.embed_query("w1")
    packed = pickle.dumps(embeddings)
    assert len(packed) < 2_000
    assert pickle.loads(packed).embed_query("w1") == vector


async def test_async_gives_the_same_vectors(embeddings):
    await_all = asyncio.gather(
        embeddings.aembed_documents(TEXTS), *(embeddings.aembed_query(text) for text in TEXTS)
    )
    documents, *queries = await await_all
    np.testing.assert_allclose(documents, embeddings.embed_documents(TEXTS), atol=1e-6)
    expected = [embeddings.embed_query(text) for text in TEXTS]
    np.testing.assert_allclose(queries, expected, atol=1e-6)


class _Slow:
    """Makes each forward pass take a while, and counts those that run at once."""

    def __init__(self, embeddings, monkeypatch, seconds):
        model = embeddings._encoder.encoder[0].model
        forward, self.seconds, self.calls = model.forward, seconds, 0
        self.running, self.most, self.threads = 0, 0, set()

        def slowed(*args, **kwargs):
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
            self.threads.add(threading.current_thread().name)
            time.sleep(self.seconds)
            self.running -= 1
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", slowed)


async def test_the_event_loop_goes_on_while_texts_are_embedded(embeddings, monkeypatch):
    _Slow(embeddings, monkeypatch, 0.4)
    work = asyncio.create_task(embeddings.aembed_documents(["w1"]))
    beats = 0
    while not work.done():
        await asyncio.sleep(0.01)
        beats += 1
    assert beats > 10


async def test_calls_that_come_together_run_one_after_the_other(embeddings, monkeypatch):
    slow = _Slow(embeddings, monkeypatch, 0.02)
    await asyncio.gather(*(embeddings.aembed_query(f"w{number}") for number in range(12)))
    assert (slow.calls, slow.most, len(slow.threads)) == (12, 1, 1)


async def test_a_cancelled_call_leaves_the_adapter_usable(embeddings, monkeypatch):
    expected = embeddings.embed_query("w1")
    slow = _Slow(embeddings, monkeypatch, 0.2)
    calls = [asyncio.create_task(embeddings.aembed_query(f"w{number}")) for number in (1, 2, 3)]
    await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    assert await asyncio.gather(*calls, return_exceptions=True)
    assert all(call.cancelled() for call in calls)
    slow.seconds = 0
    assert await embeddings.aembed_query("w1") == expected
    # the one that ran when it was cancelled, and the last; never those that waited
    assert slow.calls == 2


def test_a_namespace_belongs_to_one_model_and_one_way_to_embed(folder, tmp_path):
    other = save_bare("qwen3", tmp_path / "other", seed=1)
    common = {"precision": "fp32"}
    namespaces = [
        EffirEmbeddings(model, **{**common, **settings}).namespace
        for model, settings in (
            (folder, {}),
            (other, {}),
            (folder, {"precision": "bf16"}),
            (folder, {"precision": None}),
            (folder, {"max_length": 8}),
            (folder, {"truncate_dim": 8}),
            (folder, {"document_prompt": ""}),
            (folder, {"query_prompt": ""}),
        )
    ]
    assert len(set(namespaces)) == len(namespaces)
    assert EffirEmbeddings(folder, **common).namespace == namespaces[0]
    assert EffirEmbeddings(folder, device="cpu", **common).namespace == namespaces[0]


def test_the_namespace_of_a_loaded_model_follows_its_settings(folder):
    model = load(folder)
    embeddings = EffirEmbeddings(model)
    before = embeddings.namespace
    assert EffirEmbeddings(load(folder)).namespace == before
    model.prompts = {**model.prompts, "document": "w9 "}
    prompted = embeddings.namespace
    model.max_seq_length = 7
    assert len({before, prompted, embeddings.namespace}) == 3


def test_two_models_in_one_cache_never_get_each_others_vectors(folder, tmp_path):
    classic = pytest.importorskip("langchain_classic.embeddings")
    store = InMemoryByteStore()
    other = save_bare("qwen3", tmp_path / "other", seed=1)
    for model in (folder, other, folder):
        plain = EffirEmbeddings(model, precision="fp32")
        cached = classic.CacheBackedEmbeddings.from_bytes_store(
            plain, store, namespace=plain.namespace, key_encoder="sha256"
        )
        np.testing.assert_allclose(
            cached.embed_documents(TEXTS), plain.embed_documents(TEXTS), atol=1e-6
        )
    assert len(list(store.yield_keys())) == 2 * len(TEXTS)


def test_scores_of_a_vector_store_are_those_of_the_model(folder, embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page_content=text, id=text) for text in TEXTS])
    encoder = load(folder, precision="fp32")
    query = encoder.encode_query("w6", normalize_embeddings=True)
    scores = encoder.encode_document(TEXTS, normalize_embeddings=True) @ query
    expected = dict(zip(TEXTS, scores.tolist(), strict=True))
    found = store.similarity_search_with_score("w6", k=3)
    assert {document.id: score for document, score in found} == pytest.approx(expected, abs=1e-5)
    assert [document.id for document, _ in found] == sorted(TEXTS, key=lambda x: -expected[x])


def test_a_store_reloads_without_embedding_again(embeddings, tmp_path, monkeypatch):
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    store.dump(str(tmp_path / "store.json"))
    slow = _Slow(embeddings, monkeypatch, 0)
    again = InMemoryVectorStore.load(str(tmp_path / "store.json"), embeddings)
    assert slow.calls == 0
    assert again.similarity_search("w4", k=1) == store.similarity_search("w4", k=1)


def test_it_is_an_embeddings_class_of_langchain(embeddings):
    assert isinstance(embeddings, Embeddings)


def test_documents_that_are_cut_are_told_of(folder, caplog):
    short = EffirEmbeddings(folder, precision="fp32", max_length=8)
    short.embed_documents(["w11 " * 30])
    assert "longer than the 8 tokens" in caplog.text


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_examples_of_the_page_run(number, minilm, tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parents[2] / "docs" / "langchain_haystack.md"
    section = page.read_text(encoding="utf-8").split("\n## ")[1]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]
    if "langchain_classic" in code:
        pytest.importorskip("langchain_classic")
    # a local folder of that name is taken, and this one is known to answer rightly
    (tmp_path / "effir-mini").symlink_to(minilm)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page.name, "exec"), {})
    assert capsys.readouterr().out == ("moss\n" if number == 0 else "")
