from __future__ import annotations

from functools import partial

import pytest
from common import run_recipe

from effir_integrations import load
from effir_integrations.evaluation.evaluate import evaluate

pytest.importorskip("langchain_core")
pytest.importorskip("faiss")

from scripts import recipe_module

from effir_integrations.adapters.langchain import EffirEmbeddings

RECIPE = recipe_module("rag_langchain")
MAIN = RECIPE.index_and_search
TEXTS = ["w1 w2", "w4", "w5 w6 w7 w8"]


@pytest.fixture
def run(run_json):
    return partial(run_json, MAIN, parser=RECIPE.command_line())


@pytest.fixture
def store(recipe_model):
    embeddings = EffirEmbeddings(recipe_model, precision="fp32")
    return RECIPE.FlatStore.from_texts(TEXTS, embeddings, ids=["a", "b", "c"])


def test_figures_are_those_of_evaluate(run, recipe_model, recipe_data, tmp_path):
    printed = run()
    expected = evaluate(load(recipe_model, precision="fp32"), recipe_data)
    assert printed["metrics"] == pytest.approx(expected.metrics, abs=1e-6)
    assert printed["search"] == "LangChain, FAISS flat"
    assert min(printed["documents_per_second"], printed["query_latency_ms"]) > 0
    assert (tmp_path / "out" / "runs" / "langchain-faiss-flat.trec").is_file()


def test_a_second_run_embeds_no_document(run, monkeypatch):
    first = run()
    embed = EffirEmbeddings.embed_documents
    monkeypatch.setattr(EffirEmbeddings, "embed_documents", lambda *a: pytest.fail("embedded"))
    again = run()
    assert (again["metrics"], again["documents_per_second"]) == (
        first["metrics"],
        first["documents_per_second"],
    )
    monkeypatch.setattr(EffirEmbeddings, "embed_documents", embed)
    assert run("--max-length", "4")["max_length"] == 4


def test_windows_do_not_change_the_result(run, monkeypatch):
    first = run()
    monkeypatch.setattr(RECIPE, "WINDOW", 7)
    assert run("--force")["metrics"] == first["metrics"]


def test_a_question_gets_three_passages_with_their_ids(recipe_model, recipe_data, tmp_path, capsys):
    line = ["--model", str(recipe_model), "--data", str(recipe_data), "--out", str(tmp_path)]
    run_recipe(MAIN, "test", RECIPE.command_line(), [*line, "--question", "w3 [w8]"])
    out = capsys.readouterr().out
    assert "Question: w3 [w8]\nAnswer:" in out
    assert [out.count(f"[{number}] doc-") for number in (1, 2, 3, 4)] == [1, 1, 1, 0]


def test_a_question_does_not_go_into_json(run, capsys):
    with pytest.raises(SystemExit):
        run("--question", "w3")
    assert "--question prints a prompt" in capsys.readouterr().err


def test_the_store_scores_as_the_model_does(store, recipe_model):
    encoder = load(recipe_model, precision="fp32")
    query = encoder.encode_query("w6", normalize_embeddings=True)
    scores = encoder.encode_document(TEXTS, normalize_embeddings=True) @ query
    found = store.similarity_search_with_score("w6", k=9)
    expected = dict(zip("abc", scores.tolist(), strict=True))
    assert {document.id: score for document, score in found} == pytest.approx(expected, abs=1e-5)
    assert [document.id for document, _ in found] == sorted(expected, key=lambda x: -expected[x])
    (best,) = store.as_retriever(search_kwargs={"k": 1}).invoke("w6")
    assert best == found[0][0]


def test_a_store_without_documents_finds_nothing_and_is_not_written(recipe_model, tmp_path):
    empty = RECIPE.FlatStore(EffirEmbeddings(recipe_model))
    assert empty.similarity_search("w1") == []
    with pytest.raises(ValueError, match="no vectors to write"):
        empty.save(tmp_path)
