from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import load
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.adapters.pyserini.export import export_to_pyserini
from effir_integrations.adapters.pyserini.record import IndexRecord, vector_dimension
from effir_integrations.data.beir import RetrievalData

faiss = pytest.importorskip("faiss")
DOCUMENTS = {"007": "w1 w2", "d-é": "w3", "3e5": ""}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("export")
    load(save_bare("bert", base / "bare"), prompts={"query": "w9 "}).save(str(base / "model"))
    return base / "model"


def test_documents_become_a_flat_index_with_ids_as_they_are(model, tmp_path):
    written = export_to_pyserini(model, DOCUMENTS, tmp_path / "out", precision="fp32")
    index = faiss.read_index(str(written.index / "index"))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    ids = (written.index / "docid").read_text(encoding="utf-8").splitlines()
    assert ids == list(DOCUMENTS) and (written.documents, written.dimension) == (3, 32)
    expected = LazyEncoder(model, precision="fp32").embed(list(DOCUMENTS.values()), "document")
    np.testing.assert_allclose(index.reconstruct_n(0, 3), expected, atol=2e-6)
    assert (written.encoded_queries, written.topics, written.qrels) == (None, None, None)
    assert IndexRecord.load(written.index).fingerprint == LazyEncoder(model).fingerprint
    assert vector_dimension(written.index) == 32


def test_queries_and_judgements_of_data_are_written_as_well(model, tmp_path):
    data = RetrievalData(
        name="x",
        split="test",
        documents=DOCUMENTS,
        queries={"007": "w1", "q": "w2"},
        qrels={"007": {"d-é": 2}, "q": {"007": 1, "3e5": 0}},
    )
    encoder = LazyEncoder(model, precision="fp32")
    written = export_to_pyserini(encoder, data, tmp_path / "out")
    topics = json.loads(written.topics.read_text(encoding="utf-8"))
    assert topics == {"007": {"title": "w1"}, "q": {"title": "w2"}}
    lines = written.qrels.read_text(encoding="utf-8").splitlines()
    assert lines == ["007 0 d-é 2", "q 0 007 1", "q 0 3e5 0"]
    # made by the line above, so that it may be read
    table = pytest.importorskip("pandas").read_pickle(written.encoded_queries / "embedding.pkl")
    assert list(table["id"]) == ["007", "q"] and list(table["text"]) == ["w1", "w2"]
    expected = encoder.embed(["w1", "w2"], "query")
    np.testing.assert_allclose(np.stack(table["embedding"]), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("judged", "choice", "removed"),
    [("a", None, False), ("b", None, True), ("a", "yes", True), ("b", "no", False)],
)
def test_the_result_says_whether_a_search_is_to_remove_the_document_of_the_querys_id(
    model, tmp_path, judged, choice, removed
):
    data = RetrievalData(
        name="x",
        split="test",
        documents={"a": "w1", "b": "w2"},
        queries={"a": "w1"},
        qrels={"a": {judged: 1}, "absent": {"gone": 1}},
    )
    written = export_to_pyserini(model, data, tmp_path / "out", drop_same_id=choice)
    assert written.remove_query is removed
    assert written.qrels.read_text() == f"a 0 {judged} 1\nabsent 0 gone 1\n"


def test_queries_given_apart_have_no_judgements(model, tmp_path):
    written = export_to_pyserini(model, DOCUMENTS, tmp_path / "out", queries={"a": "w1"})
    assert written.topics.is_file() and written.qrels is None


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({}, "there is no document"),
        ({"a\nb": "w1"}, "line break"),
        ({"a b": "w1"}, "whitespace"),
        ({"": "w1"}, "id is empty"),
    ],
)
def test_documents_that_cannot_be_written_are_refused_before_the_model_is_loaded(
    tmp_path, documents, message
):
    with pytest.raises(ValueError, match=message) as refused:
        export_to_pyserini(tmp_path / "no model", documents, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for format_of_others in (".npy", ".parquet", ".jsonl"):
        assert format_of_others not in str(refused.value)


def test_what_is_there_is_replaced_only_on_demand(model, tmp_path):
    out = tmp_path / "out"
    export_to_pyserini(model, DOCUMENTS, out)
    with pytest.raises(FileExistsError, match="is not empty"):
        export_to_pyserini(model, DOCUMENTS, out)
    export_to_pyserini(model, {"a": "w1"}, out, force=True)
    assert (out / "docid").read_text() == "a\n"


def test_a_name_that_pyserini_would_misunderstand_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="'bpr'"):
        export_to_pyserini(model, DOCUMENTS, tmp_path / "subprojects")


@pytest.mark.parametrize("package", ["faiss", "pandas"])
def test_a_missing_package_is_named_with_the_extra(model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*effir-integrations\[pyserini\]"):
        export_to_pyserini(model, DOCUMENTS, tmp_path / "out", queries={"a": "w1"})
    assert not (tmp_path / "out").exists()


def test_a_record_of_another_kind_is_refused(tmp_path):
    (tmp_path / "effir.json").write_text('{"format": "something"}')
    with pytest.raises(ValueError, match="has the format 'something'"):
        IndexRecord.load(tmp_path)
    (tmp_path / "effir.json").write_text('{"format": "effir_pyserini_index", "dimension": 3}')
    with pytest.raises(ValueError, match="cannot be used"):
        IndexRecord.load(tmp_path)


def test_the_dimension_is_that_of_any_kind_of_index(tmp_path):
    vectors = np.random.default_rng(0).random((300, 24), dtype=np.float32)
    kinds = [faiss.IndexFlatIP(24), faiss.IndexHNSWFlat(24, 8), faiss.IndexPQ(24, 4, 4)]
    for index in kinds:
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, str(tmp_path / "index"))
        assert vector_dimension(tmp_path) == 24
    (tmp_path / "index").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="no Faiss index"):
        vector_dimension(tmp_path)
