from __future__ import annotations

import pytest

from effir_integrations import load
from effir_integrations.evaluation.evaluate import evaluate

pytest.importorskip("mteb")

from scripts import recipe_module  # noqa: E402

RECIPE = recipe_module("beir_mteb")
MAIN = RECIPE.evaluate_with_mteb


def test_figures_are_those_of_evaluate(run_json, recipe_model, recipe_data, tmp_path):
    printed = run_json(MAIN)

    expected = evaluate(load(recipe_model, precision="fp32"), recipe_data)
    assert printed["metrics"] == pytest.approx(expected.metrics, abs=1e-6)
    assert printed["search"] == "MTEB"
    assert min(printed["documents_per_second"], printed["queries_per_second"]) > 0
    (result,) = (tmp_path / "out" / "mteb" / "results" / "local__model").glob("*/words-*.json")
    assert '"ndcg_at_10"' in result.read_text()
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == ["mteb.trec"]


def test_a_second_run_encodes_nothing(run_json, monkeypatch):
    first = run_json(MAIN)
    monkeypatch.setattr(RECIPE, "run_mteb", lambda *args: pytest.fail("evaluated again"))

    assert run_json(MAIN) == first


@pytest.mark.parametrize("change", [["--force"], ["--max-length", "4"], ["--precision", "bf16"]])
def test_other_settings_are_evaluated_anew(run_json, monkeypatch, change):
    runs = []
    run_mteb = RECIPE.run_mteb
    monkeypatch.setattr(RECIPE, "run_mteb", lambda *args: runs.append(1) or run_mteb(*args))
    run_json(MAIN)
    run_json(MAIN, *change)
    assert len(runs) == 2
