"""Evaluate a model on a BEIR corpus with MTEB, offline, with results in its format.

MTEB encodes, searches and scores. Its result and its rankings are kept, so that a second run
encodes nothing. Without arguments: effir-mini on docstrings of Python's library.

    python recipes/beir_mteb.py --model MODEL --data beir/scifact

Needs: pip install "effir-integrations[eval,mteb]"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mteb
from common import Recipe, recipe_parser, run_recipe
from mteb.cache import ResultCache

from effir_integrations.adapters.mteb import BeirTask, EffirModel, beir_task
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.files import read_json

TOLERANCE = 0.0001
"""How far our nDCG@10 of the rankings may be from what MTEB reports: it rounds to five places."""


def evaluate_with_mteb(recipe: Recipe) -> list[Evaluation]:
    """Let MTEB encode, search and score once, then read what it kept."""
    task = beir_task(recipe.data)
    name = task.metadata.name
    settings = {"task": name, "mteb": mteb.__version__}
    stage = recipe.stage("mteb", lambda folder: run_mteb(recipe, task, folder), settings)
    (result_path,) = stage.folder.glob(f"results/*/*/{name}.json")
    result = read_json(result_path, "the result of MTEB")
    rankings = read_json(stage.folder / f"{name}_predictions.json", "the rankings of MTEB")
    split = recipe.data.split
    seconds = phase_seconds(result)
    evaluation = recipe.evaluation(
        "MTEB",
        rankings["default"][split],
        documents_per_second=rate(len(recipe.data.documents), seconds.get("Searching corpus")),
        queries_per_second=rate(len(recipe.data.queries), seconds.get("Encoding queries")),
    )
    reported = result["scores"][split][0]["ndcg_at_10"]
    if abs(reported - evaluation.metrics["nDCG@10"]) > TOLERANCE:
        raise RuntimeError(
            f"MTEB reports nDCG@10 {reported}, its rankings give {evaluation.metrics['nDCG@10']}; "
            f"please report this with {result_path}"
        )
    return [evaluation]


def run_mteb(recipe: Recipe, task: BeirTask, folder: Path) -> None:
    """Evaluate, and keep MTEB's result and rankings in a folder."""
    mteb.evaluate(
        EffirModel(recipe.encoder, recipe.model),
        task,
        cache=ResultCache(folder),
        prediction_folder=folder,
        show_progress_bar=recipe.show_progress,
    )


def phase_seconds(result: dict[str, Any]) -> dict[str, float]:
    """Return how long each phase took, where MTEB measured it."""
    phases = result.get("evaluation_phases") or ()
    return {phase["name"]: phase["end"] - phase["start"] for phase in phases}


def rate(count: int, seconds: float | None) -> float | None:
    """Return how many a second, where the time is known."""
    return count / seconds if seconds else None


if __name__ == "__main__":
    run_recipe(evaluate_with_mteb, "mteb", recipe_parser(__doc__))
