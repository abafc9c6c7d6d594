"""A small BEIR folder, a tiny model, and a way to run a recipe and read its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from common import recipe_parser, run_recipe
from tiny import save_bare

from effir_integrations import load


@pytest.fixture(scope="session")
def recipe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bidirectional model with prompts."""
    base = tmp_path_factory.mktemp("recipe-model")
    prompts = {"query": "w50 ", "document": "w51 "}
    load(save_bare("bert", base / "bare"), prompts=prompts).save(str(base / "model"))
    return base / "model"


@pytest.fixture(scope="session")
def recipe_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents, some without title, ids that are no numbers, two graded judgements each."""
    folder = tmp_path_factory.mktemp("recipe-data") / "words"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"doc-{i}", "title": f"w{i}" if i % 3 else "", "text": f"w{i} w{i + 5} w{i + 9}"}
        for i in range(40)
    ]
    queries = [{"_id": f"q-{i}", "text": f"w{i} w{i + 5}"} for i in range(8)]
    qrels = ["query-id\tcorpus-id\tscore"]
    qrels += [f"q-{i}\tdoc-{j}\t{grade}" for i in range(8) for j, grade in ((i, 2), (i + 5, 1))]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels))
    return folder


@pytest.fixture
def run_json(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recipe_model: Path,
    recipe_data: Path,
) -> Callable[..., dict[str, Any]]:
    """Run the main function of a recipe on the small folder, and return what `--json` prints."""

    def run(main: Callable[..., Any], *arguments: str, parser: Any = None) -> dict[str, Any]:
        line = ["--model", str(recipe_model), "--data", str(recipe_data), "--json"]
        line += ["--out", str(tmp_path / "out"), "--precision", "fp32", *arguments]
        capsys.readouterr()
        run_recipe(main, "test", parser or recipe_parser("test"), line)
        return json.loads(capsys.readouterr().out)

    return run
