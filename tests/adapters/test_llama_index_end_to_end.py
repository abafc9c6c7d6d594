"""LlamaIndex as people use it: indexes, pipelines, stores on disk, query engines."""

from __future__ import annotations

import re
from pathlib import Path

import faiss
import numpy as np
import pytest
from tiny import save_bare

pytest.importorskip("llama_index.core")

from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.vector_stores.faiss import FaissVectorStore

from effir_integrations import check_space, load
from effir_integrations.adapters.llama_index import EffirEmbedding

PROMPTS = {"query": "w50 ", "document": "w51 "}
TEXTS = {f"d{row}": f"w{row} w{row + 10} w{row + 20} w{row + 30}" for row in range(10)}
QUERIES = ["w1 w11", "w2 w12 w22", "w9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("end_to_end")
    load(save_bare("qwen3", base / "bare"), prompts=PROMPTS).save(str(base / "model"))
    return base / "model"


@pytest.fixture
def embedding(folder):
    return EffirEmbedding(folder, precision="fp32")


@pytest.fixture(scope="module")
def expected(folder):
    """Query -> document -> similarity, by the encoder itself."""
    encoder = load(folder, precision="fp32")
    queries = encoder.encode_query(QUERIES, normalize_embeddings=True)
    documents = encoder.encode_document(list(TEXTS.values()), normalize_embeddings=True)
    similarities = queries @ documents.T
    return {
        query: dict(zip(TEXTS, row.tolist(), strict=True))
        for query, row in zip(QUERIES, similarities, strict=True)
    }


def documents():
    return [Document(id_=name, text=text) for name, text in TEXTS.items()]


def nodes():
    return [TextNode(id_=name, text=text) for name, text in TEXTS.items()]


def found(results, of_node=lambda node: node.ref_doc_id):
    return {of_node(result.node): result.score for result in results}


def agree(scores, expected):
    assert scores.keys() == expected.keys()
    np.testing.assert_allclose([scores[x] for x in expected], list(expected.values()), atol=1e-5)
    assert list(scores) == sorted(expected, key=expected.__getitem__, reverse=True)


def count_texts(embedding, monkeypatch):
    """Return a list to which every encoded text is added."""
    seen, real = [], embedding._encoder.embed

    def embed(texts, *args, **kwargs):
        seen.extend(texts)
        return real(texts, *args, **kwargs)

    monkeypatch.setattr(embedding._encoder, "embed", embed)
    return seen


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
def test_scores_of_the_store_in_memory_are_similarities(embedding, expected, use_async):
    index = VectorStoreIndex.from_documents(documents(), embed_model=embedding, use_async=use_async)
    retriever = index.as_retriever(similarity_top_k=len(TEXTS))
    for query in QUERIES:
        agree(found(retriever.retrieve(query)), expected[query])


async def test_scores_of_async_retrieval_are_similarities(embedding, expected):
    index = VectorStoreIndex(nodes(), embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=len(TEXTS))
    for query in QUERIES:
        results = await retriever.aretrieve(query)
        agree(found(results, lambda node: node.node_id), expected[query])


def test_an_index_in_memory_survives_the_disk(embedding, expected, tmp_path):
    index = VectorStoreIndex.from_documents(documents(), embed_model=embedding)
    index.storage_context.persist(str(tmp_path))
    context = StorageContext.from_defaults(persist_dir=str(tmp_path))
    again = load_index_from_storage(context, embed_model=embedding)
    results = again.as_retriever(similarity_top_k=len(TEXTS)).retrieve(QUERIES[0])
    agree(found(results), expected[QUERIES[0]])


def test_a_faiss_index_survives_the_disk(embedding, expected, tmp_path):
    store = FaissVectorStore(faiss.IndexFlatIP(embedding.dimension))
    embedding.check_vector_store(store)
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes(), embed_model=embedding, storage_context=context)
    index.storage_context.persist(str(tmp_path))
    store = FaissVectorStore.from_persist_dir(str(tmp_path))
    embedding.check_vector_store(store)
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(tmp_path))
    again = load_index_from_storage(context, embed_model=embedding)
    for query in QUERIES:
        results = again.as_retriever(similarity_top_k=len(TEXTS)).retrieve(query)
        agree(found(results, lambda node: node.node_id), expected[query])


def test_distances_as_scores_are_what_the_check_prevents(embedding):
    store = FaissVectorStore(faiss.IndexFlatL2(embedding.dimension))
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes(), embed_model=embedding, storage_context=context)
    first, second = index.as_retriever(similarity_top_k=2).retrieve(QUERIES[0])
    assert first.score < second.score
    with pytest.raises(ValueError, match="metric L2"):
        embedding.check_vector_store(store)


def test_a_second_run_of_a_pipeline_encodes_nothing(embedding, folder, monkeypatch, tmp_path):
    pipeline = IngestionPipeline(transformations=[embedding.splitter(), embedding])
    first = pipeline.run(documents=documents())
    pipeline.persist(str(tmp_path))
    again = EffirEmbedding(folder, precision="fp32")
    seen = count_texts(again, monkeypatch)
    pipeline = IngestionPipeline(transformations=[again.splitter(), again])
    pipeline.load(str(tmp_path))
    second = pipeline.run(documents=documents())
    assert not seen
    assert [node.embedding for node in second] == [node.embedding for node in first]


def test_another_model_misses_the_cache_of_a_pipeline(embedding, tmp_path, monkeypatch):
    cache = IngestionCache()
    first = IngestionPipeline(transformations=[embedding], cache=cache).run(nodes=nodes())
    other = EffirEmbedding(save_bare("qwen3", tmp_path / "other", seed=1), precision="fp32")
    seen = count_texts(other, monkeypatch)
    second = IngestionPipeline(transformations=[other], cache=cache).run(nodes=nodes())
    assert sorted(seen) == sorted(TEXTS.values())
    assert not np.allclose(first[0].embedding, second[0].embedding, atol=1e-3)


def test_a_store_that_a_pipeline_left_to_another_model_is_found_out(embedding, tmp_path):
    pipeline = IngestionPipeline(
        transformations=[embedding],
        docstore=SimpleDocumentStore(),
        vector_store=SimpleVectorStore(),
    )
    pipeline.run(documents=documents())
    other = EffirEmbedding(save_bare("qwen3", tmp_path / "other", seed=1), precision="fp32")
    pipeline.transformations = [other]
    # unchanged documents are passed over by their text, whatever embeds them now
    assert not pipeline.run(documents=[*documents()])
    (added,) = pipeline.run(documents=[*documents(), Document(text="w7 w8", id_="new")])
    vectors = pipeline.vector_store.data.embedding_dict
    text = {node.node_id: node.get_content("embed") for node in [*documents(), added]}
    sampled = list(vectors.values()), [text[name] for name in vectors]
    with pytest.raises(ValueError, match=rf"{len(TEXTS)} of {len(TEXTS) + 1} vectors are not"):
        check_space(other.get_text_embedding_batch, *sampled)
    with pytest.raises(ValueError, match=rf"1 of {len(TEXTS) + 1} vectors are not"):
        check_space(embedding.get_text_embedding_batch, *sampled)


async def test_a_pipeline_runs_on_an_event_loop(embedding, expected):
    pipeline = IngestionPipeline(transformations=[embedding])
    result = await pipeline.arun(nodes=nodes())
    query = embedding.get_query_embedding(QUERIES[0])
    scores = {node.node_id: float(np.dot(node.embedding, query)) for node in result}
    assert scores == pytest.approx(expected[QUERIES[0]], abs=1e-5)


def test_a_query_that_is_also_a_document_is_not_answered_from_its_vector(folder, expected):
    cached = EffirEmbedding(folder, precision="fp32", embeddings_cache=SimpleKVStore())
    index = VectorStoreIndex([*nodes(), TextNode(id_="same", text=QUERIES[0])], embed_model=cached)
    results = index.as_retriever(similarity_top_k=11).retrieve(QUERIES[0])
    scores = found(results, lambda node: node.node_id)
    # with the vector of a document for the query it would be 1
    assert scores.pop("same") < 0.999
    agree(scores, expected[QUERIES[0]])


async def test_a_query_engine_answers_from_the_nearest_node(embedding, expected):
    index = VectorStoreIndex.from_documents(documents(), embed_model=embedding)
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=1)
    best = max(expected[QUERIES[1]], key=expected[QUERIES[1]].__getitem__)
    for answer in (engine.query(QUERIES[1]), await engine.aquery(QUERIES[1])):
        (source,) = answer.source_nodes
        assert source.node.ref_doc_id == best and TEXTS[best] in str(answer)


def test_metadata_is_embedded_as_llama_index_shows_it_to_embeddings(embedding):
    (node,) = embedding([TextNode(text="w1", metadata={"title": "w2"})])
    shown = "title: w2\n\nw1"
    np.testing.assert_allclose(node.embedding, embedding.get_text_embedding(shown), atol=1e-6)


def test_nodes_without_text_are_embedded_as_the_empty_text(embedding):
    for node in embedding([TextNode(text=""), TextNode(text="w1")]):
        assert np.isfinite(node.embedding).all()
        np.testing.assert_allclose(
            node.embedding, embedding.get_text_embedding(node.text), atol=1e-6
        )


def test_the_code_in_the_documentation_runs(minilm, tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "llama_index.md"
    first, persistence, space, _ = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(first.replace("effir-mini", str(minilm)), names)
    assert len(capsys.readouterr().out.splitlines()) == 2
    exec(persistence, names)
    exec(space, names)
    (result,) = names["index"].as_retriever(similarity_top_k=1).retrieve("What floats?")
    assert result.text == "Ships float."


def test_an_index_of_another_embedding_is_found_out(embedding):
    index = VectorStoreIndex(nodes(), embed_model=MockEmbedding(embed_dim=8))
    with pytest.raises(ValueError, match="holds vectors of 8 dimensions"):
        embedding.check_vector_store(index.vector_store)
