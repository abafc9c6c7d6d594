from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import load

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice

from effir_integrations.adapters.haystack import EffirDocumentEmbedder, EffirTextEmbedder

TEXTS = ["w1 w2\nw3", "w4", "w5 w6 w7 w8"]
COMPONENTS = (EffirTextEmbedder, EffirDocumentEmbedder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("haystack")
    prompts = {"query": "w50 ", "document": "w51 w52 "}
    load(save_bare("qwen3", base / "bare"), prompts=prompts).save(str(base / "model"))
    return base / "model"


@pytest.fixture(scope="module")
def encoder(folder):
    return load(folder, precision="fp32")


@pytest.fixture
def queries(folder):
    return EffirTextEmbedder(folder, precision="fp32")


@pytest.fixture
def documents(folder):
    return EffirDocumentEmbedder(folder, precision="fp32", progress_bar=False)


def embedded(component, *contents, **fields):
    out = component.run(documents=[Document(content=content, **fields) for content in contents])
    return [document.embedding for document in out["documents"]]


def test_each_component_takes_its_prompt_of_the_model(queries, documents, encoder):
    query = encoder.encode_query("w1 w2", normalize_embeddings=True)
    np.testing.assert_allclose(queries.run(text="w1 w2")["embedding"], query, atol=1e-6)
    expected = encoder.encode_document(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embedded(documents, *TEXTS), expected, atol=1e-6)
    assert type(queries.run(text="w1")["embedding"][0]) is float


def test_prompts_that_are_given_replace_those_of_the_model(folder, queries, documents):
    as_document = EffirTextEmbedder(folder, precision="fp32", query_prompt="w51 w52 ")
    vector = as_document.run(text="w4")["embedding"]
    np.testing.assert_allclose(vector, embedded(documents, "w4")[0], atol=1e-6)
    as_query = EffirDocumentEmbedder(folder, precision="fp32", document_prompt="w50 ")
    expected = queries.run(text="w4")["embedding"]
    np.testing.assert_allclose(embedded(as_query, "w4")[0], expected, atol=1e-6)


def test_lengths_and_dimensions_are_cut(folder):
    cut = {"precision": "fp32", "max_length": 4, "truncate_dim": 8}
    # BOS, two tokens of the document prompt and EOS are four
    first, second = embedded(EffirDocumentEmbedder(folder, **cut), "w1 " * 9, "w2")
    assert len(first) == 8
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert len(EffirTextEmbedder(folder, **cut).run(text="w1")["embedding"]) == 8


def test_documents_are_copied_and_keep_everything_else(documents):
    given = [Document(content="w1", meta={"year": 3}, id="a"), Document(content="w2", id="b")]
    out = documents.run(documents=given)["documents"]
    assert [document.embedding for document in given] == [None, None]
    assert [document.id for document in out] == ["a", "b"] and out[0].meta == {"year": 3}


def test_meta_values_come_before_the_content(folder, documents):
    titled = EffirDocumentEmbedder(
        folder,
        precision="fp32",
        meta_fields_to_embed=["title", "year", "absent"],
        embedding_separator=" w9 ",
    )
    meta = {"title": "w3", "year": 0, "other": "w7"}
    expected = embedded(documents, "w3 w9 0 w9 w1")
    np.testing.assert_allclose(embedded(titled, "w1", meta=meta), expected, atol=1e-6)
    # a value that is empty brings no separator
    np.testing.assert_allclose(
        embedded(titled, "w1", meta={"title": ""}), embedded(documents, "w1"), atol=1e-6
    )


def test_a_document_without_any_text_is_refused_and_one_with_meta_alone_is_not(folder, documents):
    with pytest.raises(ValueError, match="document empty has no content"):
        documents.run(documents=[Document(content="w1"), Document(id="empty")])
    titled = EffirDocumentEmbedder(folder, precision="fp32", meta_fields_to_embed=["title"])
    vectors = embedded(titled, None, meta={"title": "w3"})
    np.testing.assert_allclose(vectors, embedded(documents, "w3"), atol=1e-6)


def test_no_documents_and_empty_content_are_served(documents, encoder):
    assert documents.run(documents=[]) == {"documents": []}
    expected = encoder.encode_document([""], normalize_embeddings=True)
    np.testing.assert_allclose(embedded(documents, ""), expected, atol=1e-6)


@pytest.mark.parametrize("wrong", ["w1 w2", ["w1"], Document(content="w1")])
def test_what_is_no_list_of_documents_is_refused(documents, wrong):
    with pytest.raises(TypeError, match="takes a list of haystack Documents"):
        documents.run(documents=wrong)


def test_a_text_that_is_no_string_is_refused(queries):
    with pytest.raises(ValueError, match="only strings"):
        queries.run(text=["w1"])


async def test_async_runs_give_the_same(queries, documents):
    given = [Document(content=text) for text in TEXTS]
    first, second = await asyncio.gather(
        documents.run_async(documents=given), queries.run_async(text="w1")
    )
    assert first == documents.run(documents=given)
    assert second == queries.run(text="w1")


@pytest.mark.parametrize("kind", COMPONENTS)
async def test_warm_up_loads_and_close_frees_until_the_next_run(folder, kind):
    component = kind(folder)
    assert not component._encoder.is_loaded
    component.warm_up()
    assert component._encoder.is_loaded
    component.close()
    assert not component._encoder.is_loaded
    await component.warm_up_async()
    assert component._encoder.is_loaded


@pytest.mark.parametrize("kind", COMPONENTS)
def test_all_settings_travel_through_a_dictionary(folder, kind):
    settings = {
        "precision": "bf16",
        "max_length": 9,
        "truncate_dim": 16,
        "revision": "main",
        "trust_remote_code": True,
    }
    if kind is EffirTextEmbedder:
        settings |= {"query_prompt": "w1 "}
    else:
        settings |= {"document_prompt": "", "meta_fields_to_embed": ["title"]}
        settings |= {"embedding_separator": " ", "progress_bar": False}
    component = kind(folder, device=ComponentDevice.from_str("cpu"), **settings)
    packed = component.to_dict()
    settings |= {"model": str(folder), "device": "cpu", "fingerprint": component.fingerprint}
    assert packed["init_parameters"] == settings
    assert kind.from_dict(packed).to_dict() == packed


@pytest.mark.parametrize("kind", COMPONENTS)
def test_a_loaded_model_serves_and_cannot_be_written_to_a_file(encoder, kind):
    component = kind(encoder)
    component.close()
    component.warm_up()
    with pytest.raises(ValueError, match="save the model and give its folder"):
        component.to_dict()


def pipelines(folder, store):
    settings = {"model": folder, "precision": "fp32"}
    indexing, search = Pipeline(), Pipeline()
    indexing.add_component("embedder", EffirDocumentEmbedder(progress_bar=False, **settings))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    search.add_component("embedder", EffirTextEmbedder(**settings))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    search.connect("embedder.embedding", "retriever.query_embedding")
    return indexing, search


@pytest.mark.parametrize("similarity", ["dot_product", "cosine"])
async def test_index_and_search_score_as_the_model_does(folder, encoder, similarity):
    store = InMemoryDocumentStore(embedding_similarity_function=similarity)
    indexing, search = pipelines(folder, store)
    indexing.run({"embedder": {"documents": [Document(content=text) for text in TEXTS]}})
    query = encoder.encode_query("w6", normalize_embeddings=True)
    scores = encoder.encode_document(TEXTS, normalize_embeddings=True) @ query
    expected = dict(zip(TEXTS, scores.tolist(), strict=True))
    for out in (
        search.run({"embedder": {"text": "w6"}}),
        await search.run_async({"embedder": {"text": "w6"}}),
    ):
        found = {d.content: d.score for d in out["retriever"]["documents"]}
        assert found == pytest.approx(expected, abs=1e-5)
        assert list(found) == sorted(TEXTS, key=lambda text: -expected[text])


def test_a_pipeline_from_yaml_gives_the_same_vectors(folder):
    indexing, search = pipelines(folder, InMemoryDocumentStore())
    again = Pipeline.loads(search.dumps(), allowed_modules=["effir_integrations"])
    request = {"data": {"embedder": {"text": "w6"}}, "include_outputs_from": {"embedder"}}
    assert again.run(**request)["embedder"] == search.run(**request)["embedder"]
    again = Pipeline.loads(indexing.dumps(), allowed_modules=["effir_integrations"])
    again.run({"embedder": {"documents": [Document(content=text, id=text) for text in TEXTS]}})
    stored = again.get_component("writer").document_store.filter_documents()
    np.testing.assert_array_equal(
        [document.embedding for document in stored],
        embedded(indexing.get_component("embedder"), *TEXTS),
    )


def test_yaml_of_a_model_that_was_replaced_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    pipeline = Pipeline()
    pipeline.add_component("embedder", EffirTextEmbedder(tmp_path / "model"))
    text = pipeline.dumps()
    shutil.rmtree(tmp_path / "model")
    save_bare("qwen3", tmp_path / "model", seed=1)
    with pytest.raises(Exception, match="whose vectors do not fit"):
        Pipeline.loads(text, allowed_modules=["effir_integrations"])


def test_documents_that_another_model_embedded_are_found_out(folder, documents, tmp_path):
    given = [Document(content=text, meta={"title": "w9"}) for text in TEXTS]
    component = EffirDocumentEmbedder(folder, meta_fields_to_embed=["title"], precision="fp32")
    stored = component.run(given)["documents"]
    assert component.check_documents(stored) > 0.999
    other = EffirDocumentEmbedder(save_bare("qwen3", tmp_path / "other", seed=1))
    for foreign in (other, documents):
        with pytest.raises(ValueError, match="3 of 3 vectors are not those that this encoder"):
            foreign.check_documents(stored)
    with pytest.raises(ValueError, match="have 0 and 32 dimensions"):
        component.check_documents([stored[0], given[1]])


@pytest.mark.parametrize("kind", COMPONENTS)
def test_settings_of_other_components_get_a_hint(folder, kind):
    own = "query_prompt" if kind is EffirTextEmbedder else "document_prompt"
    with pytest.raises(TypeError, match=f"no 'prefix'; use {own}$"):
        kind(folder, prefix="query: ")
    with pytest.raises(TypeError, match="no 'normalize_embeddings'; vectors are normalised where"):
        kind(folder, normalize_embeddings=True)


def test_documents_that_are_cut_are_told_of(folder, caplog):
    embedded(EffirDocumentEmbedder(folder, precision="fp32", max_length=8), "w11 " * 30)
    assert "longer than the 8 tokens" in caplog.text


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_page_run(number, minilm, tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parents[2] / "docs" / "langchain_haystack.md"
    section = page.read_text(encoding="utf-8").split("\n## ")[2]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]
    # a local folder of that name is taken, and this one is known to answer rightly
    (tmp_path / "effir-mini").symlink_to(minilm)
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(compile(code, page.name, "exec"), scope)
    assert capsys.readouterr().out == ("Moss\n" if number == 0 else "")
    assert number == 0 or len(scope["vector"]) == 384
