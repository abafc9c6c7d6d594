from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import fresh
import pytest
from scripts import RECIPES, recipe_module

from effir_integrations import load
from effir_integrations.evaluation.evaluate import evaluate

MODULE = recipe_module("compare_ecosystems")


NAMES = {"sentence_transformers": "Sentence Transformers", "llama_index": "LlamaIndex"}


@pytest.mark.parametrize(
    "ecosystems",
    [["sentence_transformers"], pytest.param(list(NAMES), marks=pytest.mark.slow)],
    ids=["one", "two"],
)
def test_recipes_run_on_every_model_and_their_figures_agree(
    recipe_model, recipe_data, tmp_path, capfd, ecosystems
):
    options = ["--data", str(recipe_data), "--precision", "fp32", "--quiet"]
    models = [str(recipe_model)]

    found = MODULE.compare_ecosystems(models, ecosystems, options, tmp_path)
    rows = MODULE.unique(found)
    MODULE.check_agreement(found)

    expected = evaluate(load(recipe_model, precision="fp32"), recipe_data).metrics
    assert [row.search.split(",")[0] for row in rows] == [NAMES[name] for name in ecosystems]
    for row in rows:
        assert row.metrics == pytest.approx(expected, abs=1e-5)


def test_a_disagreement_of_exact_searches_is_an_error_after_the_table(
    recipe_model, recipe_data, monkeypatch, capsys
):
    measured = evaluate(load(recipe_model), recipe_data)
    lower = {**measured.metrics, "nDCG@10": measured.metrics["nDCG@10"] - 0.001}
    rows = [replace(measured, search="A"), replace(measured, search="B", metrics=lower)]
    found = iter([[row] for row in rows])
    monkeypatch.setattr(MODULE, "run_script", lambda *given: next(found))
    with pytest.raises(SystemExit) as ended:
        MODULE.main(["--model", "m", "--json", "--ecosystems", "sentence_transformers", "mteb"])
    assert ended.value.code == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out) == [row.to_json() for row in rows]
    assert "disagree by 0.0010 in nDCG@10" in printed.err


def test_a_search_without_a_model_is_shown_once(recipe_model, recipe_data):
    row = evaluate(load(recipe_model), recipe_data)
    lexical = replace(row, model="BM25", search="BM25")
    other = replace(row, model="b")
    found = [{"pyserini": [row, lexical]}, {"pyserini": [other, lexical]}]
    assert MODULE.unique(found) == [row, lexical, other]


def test_a_recipe_that_fails_ends_it_with_one_line(recipe_data, tmp_path):
    script = RECIPES / "compare_ecosystems.py"
    line = ["--model", "no/such/model", "--data", str(recipe_data), "--out", str(tmp_path)]
    done = fresh.run([script, *line, "--ecosystems", "sentence_transformers"])
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("effir: beir_sentence_transformers.py ended with code 2")


@pytest.mark.slow
@pytest.mark.real_data
def test_scifact_has_the_published_figure_in_every_ecosystem(scifact, minilm, tmp_path):
    script = RECIPES / "compare_ecosystems.py"
    line = ["--model", str(minilm), "--data", str(scifact), "--precision", "fp32", "--json"]
    line += ["--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), *line], stdout=subprocess.PIPE, text=True, check=True
    )
    found = {row["search"]: row["metrics"]["nDCG@10"] for row in json.loads(done.stdout)}
    exact = [name for name in found if "BM25" not in name and "HNSW" not in name]
    assert len(exact) == 5
    for name in exact:
        assert found[name] == pytest.approx(0.6451, abs=0.0005), name
    assert found["Pyserini, BM25"] == pytest.approx(0.6789, abs=0.0001)
