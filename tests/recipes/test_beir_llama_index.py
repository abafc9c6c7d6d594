from __future__ import annotations

import json
from functools import partial

import pytest
from common import run_recipe

from effir_integrations import load
from effir_integrations.evaluation.evaluate import evaluate

pytest.importorskip("llama_index.vector_stores.faiss")

from scripts import recipe_module

from effir_integrations.adapters.llama_index import EffirEmbedding

RECIPE = recipe_module("beir_llama_index")
MAIN = RECIPE.index_and_search


@pytest.fixture
def run(run_json):
    return partial(run_json, MAIN, parser=RECIPE.command_line())


def test_figures_are_those_of_evaluate(run, recipe_model, recipe_data, tmp_path):
    printed = run()
    expected = evaluate(load(recipe_model, precision="fp32"), recipe_data)
    assert printed["metrics"] == pytest.approx(expected.metrics, abs=1e-6)
    assert printed["search"] == "LlamaIndex, FAISS flat"
    assert min(printed["documents_per_second"], printed["query_latency_ms"]) > 0
    assert (tmp_path / "out" / "runs" / "llamaindex-faiss-flat.trec").is_file()


def test_a_second_run_embeds_no_document(run, monkeypatch):
    first = run()
    embed = EffirEmbedding._get_text_embeddings
    monkeypatch.setattr(
        EffirEmbedding, "_get_text_embeddings", lambda *a: pytest.fail("embedded again")
    )
    again = run()
    assert (again["metrics"], again["documents_per_second"]) == (
        first["metrics"],
        first["documents_per_second"],
    )
    monkeypatch.setattr(EffirEmbedding, "_get_text_embeddings", embed)
    assert run("--max-length", "4")["max_length"] == 4


def test_documents_without_text_are_indexed_and_standard_output_is_json(run, recipe_data, tmp_path):
    data = tmp_path / "with-empty"
    (data / "qrels").mkdir(parents=True)
    for name in ("queries.jsonl", "qrels/test.tsv"):
        (data / name).write_text((recipe_data / name).read_text())
    empty = json.dumps({"_id": "empty", "title": "", "text": ""})
    (data / "corpus.jsonl").write_text((recipe_data / "corpus.jsonl").read_text() + f"\n{empty}\n")
    assert run("--data", str(data))["documents"] == 41
    (trec,) = (tmp_path / "out" / "runs").iterdir()
    assert sum(" empty " in line for line in trec.read_text().splitlines()) == 8


def test_a_question_is_answered_from_three_nodes(recipe_model, recipe_data, tmp_path, capsys):
    line = ["--model", str(recipe_model), "--data", str(recipe_data), "--out", str(tmp_path)]
    run_recipe(MAIN, "test", RECIPE.command_line(), [*line, "--question", "w3 [w8]"])
    out = capsys.readouterr().out
    assert "Query: w3 [w8]\nAnswer:" in out
    passages = out.split("---------------------")[1].strip().split("\n\n")
    assert len(passages) == 3


def test_a_question_does_not_go_into_json(run, capsys):
    with pytest.raises(SystemExit):
        run("--question", "w3")
    assert "--question prints a prompt" in capsys.readouterr().err
