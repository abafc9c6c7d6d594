"""Queries of one model on the documents of another: as if the index of a full model were kept."""

from __future__ import annotations

import pytest
from sentence_transformers import SentenceTransformer
from verbs import effir, effir_json, refused

from effir_integrations import compare, evaluate
from effir_integrations.data.beir import load_beir
from effir_integrations.encoder.search_vectors import search_vectors
from effir_integrations.evaluation.retrieval import rank, score_queries
from effir_integrations.evaluation.tables import comparison_table


def vectors(folder, data):
    model = SentenceTransformer(str(folder), device="cpu")
    return (
        search_vectors(model, list(data.queries.values()), kind="query"),
        search_vectors(model, list(data.documents.values()), kind="document"),
    )


def test_documents_are_the_other_models_and_queries_ones_own(other, model_folder, make_beir):
    data = load_beir(make_beir())
    (ours, _), (theirs, documents) = vectors(other, data), vectors(model_folder, data)
    run = rank(list(data.documents), documents, list(data.queries), ours, drop_same_id=False)
    expected = score_queries(data.qrels, run)["nDCG@10"]

    found = evaluate(other, data, documents=model_folder, device="cpu")

    assert found.ndcg_by_query == pytest.approx(expected)
    assert (found.model, found.documents_by) == (str(other), str(model_folder))
    assert found.query_cosine == pytest.approx((ours * theirs).sum(1).mean(), abs=1e-5)
    assert 0 < found.query_cosine < 0.9999


def test_ones_own_documents_change_nothing(model_folder, make_beir):
    plain = evaluate(model_folder, make_beir(), device="cpu")
    same = evaluate(model_folder, make_beir(), documents=model_folder, device="cpu")
    assert same.metrics == plain.metrics
    assert same.query_cosine == pytest.approx(1, abs=1e-6)
    assert plain.documents_by is None and plain.query_cosine is None


def test_the_full_model_is_the_first_row_and_every_other_has_two(other, model_folder, make_beir):
    rows = compare([other], make_beir(), documents=model_folder, device="cpu", speed_rounds=1)
    full, mixed, own = rows
    assert [row.model for row in rows] == [str(model_folder), str(other), str(other)]
    assert [row.documents_by for row in rows] == [None, str(model_folder), None]
    assert mixed.documents_per_second == full.documents_per_second
    assert mixed.queries_per_second == own.queries_per_second
    alone = evaluate(other, make_beir(), device="cpu")
    assert own.metrics == alone.metrics
    labels = comparison_table(rows).columns[0]._cells
    assert labels == [
        model_folder.name,
        f"other, on documents of {model_folder.name}",
        f"  cosine of queries {mixed.query_cosine:.4f}",
        "other",
        "",
    ]


def test_the_commands_show_the_same(other, model_folder, make_beir):
    given = (other, "--data", make_beir(), "--documents", model_folder)
    rows = effir_json("evaluate", *given)
    assert [row["documents_by"] for row in rows] == [None, str(model_folder), None]
    assert "on documents of" in effir("evaluate", *given).stdout
    compared = effir_json("compare", *given)
    assert [row["metrics"] for row in compared] == [row["metrics"] for row in rows]
    assert "--run-file is of one ranking" in refused("evaluate", *given, "--run-file", "x.trec")


def test_vectors_of_another_kind_are_refused(model_folder, make_beir):
    def changed(**options):
        return SentenceTransformer(str(model_folder), device="cpu", **options)

    with pytest.raises(ValueError, match="of 16 dimensions and .* of 32"):
        evaluate(changed(truncate_dim=16), make_beir(), documents=changed())
    with pytest.raises(ValueError, match="is 'dot' and that of .* 'cosine'"):
        evaluate(
            changed(similarity_fn_name="dot"),
            make_beir(),
            documents=changed(similarity_fn_name="cosine"),
        )


def test_documents_of_no_model_are_refused_before_anything_is_encoded(model_folder, make_beir):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate(model_folder, make_beir(), documents="nowhere/at-all")
