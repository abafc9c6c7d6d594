from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import fresh
import pytest
from common import recipe_parser, run_recipe
from scripts import RECIPES, recipe_module
from tiny import save_bare

from effir_integrations import load
from effir_integrations.evaluation.evaluate import Evaluation, evaluate

MAIN = recipe_module("beir_sentence_transformers").index_and_search


def test_figures_and_keys_are_those_of_evaluate(run_json, recipe_model, recipe_data, tmp_path):
    printed = run_json(MAIN)

    expected = evaluate(load(recipe_model, precision="fp32"), recipe_data)
    assert list(printed) == [field.name for field in fields(Evaluation) if field.compare]
    assert printed["metrics"] == pytest.approx(expected.metrics, abs=1e-6)
    assert 0.2 < printed["metrics"]["nDCG@10"] < 1
    for name in ("data", "split", "parameters", "documents", "queries", "max_length", "dtype"):
        assert printed[name] == getattr(expected, name)
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert len(run.read_text().splitlines()) == 8 * 40


@pytest.mark.parametrize(("choice", "expected"), [("auto", 1.0), ("no", 1.0), ("yes", 0.0)])
def test_documents_numbered_as_their_queries_are_found(
    run_json, recipe_data, tmp_path, choice, expected
):
    data = tmp_path / "numbered"
    (data / "qrels").mkdir(parents=True)
    rows = [{"_id": str(number), "text": f"w{number} w{number + 7}"} for number in range(40)]
    for name in ("corpus", "queries"):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["query-id\tcorpus-id\tscore", *(f"{x}\t{x}\t1" for x in range(40))]
    (data / "qrels" / "test.tsv").write_text("\n".join(lines))

    printed = run_json(MAIN, "--data", str(data), "--drop-same-id", choice)
    assert printed["metrics"]["R@100"] == expected
    assert printed["drops_same_id"] is (choice == "yes")


def test_a_second_run_encodes_no_document(run_json, monkeypatch):
    first = run_json(MAIN)
    monkeypatch.setitem(MAIN.__globals__, "encode_to_file", None)

    again = run_json(MAIN)

    assert again["metrics"] == first["metrics"]
    assert again["documents_per_second"] == first["documents_per_second"]


@pytest.mark.parametrize("change", [["--force"], ["--max-length", "4"], ["--precision", "bf16"]])
def test_other_settings_encode_again(run_json, tmp_path, change):
    run_json(MAIN)
    stage = tmp_path / "out" / "index" / "stage.json"
    before = json.loads(stage.read_text())

    run_json(MAIN, *change)

    after = json.loads(stage.read_text())
    assert after["seconds"] != before["seconds"]
    assert (after["identity"] == before["identity"]) == (change == ["--force"])


def test_another_model_at_the_same_place_encodes_again(tmp_path, recipe_data, capsys):
    metrics = []
    for seed in (0, 1):
        model = save_bare("bert", tmp_path / "model", seed=seed)
        line = ["--model", str(model), "--data", str(recipe_data), "--json"]
        run_recipe(MAIN, "test", recipe_parser(""), [*line, "--out", str(tmp_path / "out")])
        metrics.append(json.loads(capsys.readouterr().out)["metrics"])
    assert metrics[0] != metrics[1]


def test_the_table_names_the_data_the_search_and_the_settings(
    recipe_model, recipe_data, tmp_path, capsys
):
    line = ["--model", str(recipe_model), "--data", str(recipe_data), "--out", str(tmp_path)]
    run_recipe(MAIN, "test", recipe_parser(""), line)
    table = capsys.readouterr().out
    for expected in ("words (test)", "Sentence Transformers", "nDCG@10", "at most 32 tokens"):
        assert expected in table


def test_a_folder_that_is_no_index_is_kept(recipe_model, recipe_data, tmp_path, capsys):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("mine")
    line = ["--model", str(recipe_model), "--data", str(recipe_data), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        run_recipe(MAIN, "test", recipe_parser(""), line)
    assert stopped.value.code == 2
    assert "index is not empty" in capsys.readouterr().err
    assert (tmp_path / "index" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--model", "no/such/folder"], "no/such/folder is no model folder"),
        (["--data", "missing"], "missing: no such folder"),
        (["--split", "dev"], "dev"),
    ],
)
def test_bad_input_is_one_plain_line(recipe_model, recipe_data, tmp_path, capsys, wrong, expected):
    line = ["--model", str(recipe_model), "--data", str(recipe_data), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        run_recipe(MAIN, "test", recipe_parser(""), [*line, *wrong])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_the_script_explains_itself():
    script = RECIPES / "beir_sentence_transformers.py"
    done = fresh.run([script, "--help"], check=True)
    assert "pip install" in done.stdout
    assert "--model" in done.stdout


@pytest.mark.slow
def test_no_arguments_take_the_demo_model_on_docstrings(tmp_path: Path):
    script = RECIPES / "beir_sentence_transformers.py"
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "docstrings (test)" in done.stdout
