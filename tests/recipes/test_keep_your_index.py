from __future__ import annotations

import json

import fresh
import pytest

pytest.importorskip("faiss")
pytest.importorskip("llama_index.vector_stores.faiss")

from pruned_folder import plan_for
from scripts import RECIPES, recipe_module

from effir_integrations import export, load
from effir_integrations.evaluation.evaluate import evaluate

RECIPE = recipe_module("keep_your_index")


@pytest.fixture
def line(recipe_model, recipe_data, tmp_path):
    encoder = load(recipe_model, device="cpu")
    export(encoder, plan_for(encoder), tmp_path / "small")
    out = ["--out", str(tmp_path / "out"), "--precision", "fp32", "--quiet"]
    models = ["--model", str(recipe_model), "--small", str(tmp_path / "small")]
    return [*models, "--data", str(recipe_data), *out]


def test_both_encoders_answer_from_one_index_through_each_library(
    line, recipe_model, recipe_data, tmp_path, capsys, monkeypatch
):
    libraries = ["--through", "faiss", "llama_index"]
    RECIPE.main([*line, *libraries, "--json", "--price-per-hour", "0.5"])
    rows = json.loads(capsys.readouterr().out)
    names = [(row["through"], row["queries_by"]) for row in rows]
    assert names == [(x, y) for x in libraries[1:] for y in ("full", "pruned")]
    small = tmp_path / "out" / "pair" / "both-queries"
    wanted = {
        "full": evaluate(load(recipe_model, precision="fp32"), recipe_data),
        "pruned": evaluate(small, recipe_data, documents=recipe_model),
    }
    for row in rows:
        assert row["ndcg"] == pytest.approx(wanted[row["queries_by"]].metrics["nDCG@10"], abs=1e-6)
        assert row["cpu_hours"] == pytest.approx(row["p50_ms"] / 3.6)
        assert row["price"] == pytest.approx(row["cpu_hours"] / 2)
    assert rows[1]["mb"] < rows[0]["mb"]

    monkeypatch.setattr(RECIPE, "pair", lambda *_, **__: pytest.fail("paired again"))
    RECIPE.main([*line, "--through", "faiss"])
    printed = capsys.readouterr().out
    assert "CPU-h" in printed and "price" not in printed


@pytest.mark.slow
def test_pyserini_answers_as_faiss_does(line):
    pytest.importorskip("pyserini")
    script = RECIPES / "keep_your_index.py"
    done = fresh.run([script, *line, "--json", "--through", "faiss", "pyserini"])
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads(done.stdout)
    assert [row["through"] for row in rows] == ["faiss", "faiss", "pyserini", "pyserini"]
    for one, other in zip(rows[:2], rows[2:], strict=True):
        assert one["ndcg"] == pytest.approx(other["ndcg"], abs=1e-6)
