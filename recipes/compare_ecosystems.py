"""Run one model on one BEIR corpus through every ecosystem, and lay the figures side by side.

Each recipe runs in a process of its own, keeps what it encoded, and writes its runs. The exact
searches of a model must agree in nDCG@10 to 0.0005, and this ends with an error if they do not.

    python recipes/compare_ecosystems.py --model MODEL SMALLER --data beir/scifact

Needs: pip install "effir-integrations[eval,pyserini,llama-index,langchain,mteb]"
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from common import recipe_parser

from effir_integrations import errors
from effir_integrations.cli import console
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.evaluation.tables import search_table

RECIPES = {
    "sentence_transformers": "beir_sentence_transformers.py",
    "pyserini": "beir_pyserini.py",
    "llama_index": "beir_llama_index.py",
    "mteb": "beir_mteb.py",
    "langchain": "rag_langchain.py",
}
TOLERANCE = 0.0005


Found = dict[str, list[Evaluation]]
"""Ecosystem -> what its recipe found of one model, its main search first."""


def compare_ecosystems(
    models: Sequence[str | None],
    ecosystems: Sequence[str],
    options: Sequence[str],
    out: Path | None = None,
) -> list[Found]:
    """Run the recipes one after the other, and return what they found of each model.

    Args:
        models: Folders or hub names; None is the recipes' default.
        ecosystems: Keys of `RECIPES`.
        options: What every recipe is given besides its model.
        out: Folder for what the recipes make; None is their default.

    Raises:
        RuntimeError: A recipe failed.
    """
    found: list[Found] = []
    for number, model in enumerate(models):
        found.append({})
        for ecosystem in ecosystems:
            line = [*options, *(["--model", model] if model is not None else [])]
            if out is not None:
                line += ["--out", str(out / ecosystem / str(number))]
            found[-1][ecosystem] = run_script(RECIPES[ecosystem], line)
    return found


def check_agreement(found: Sequence[Found]) -> None:
    """Refuse exact searches of one model whose figures differ.

    Raises:
        RuntimeError: They differ by more than `TOLERANCE` in nDCG@10.
    """
    for searches in found:
        exact = {name: rows[0].metrics["nDCG@10"] for name, rows in searches.items()}
        spread = max(exact.values()) - min(exact.values())
        if spread > TOLERANCE:
            model = next(iter(searches.values()))[0].model
            raise RuntimeError(
                f"exact searches of {model} disagree by {spread:.4f} in nDCG@10, more than "
                f"{TOLERANCE}: {exact}; one of them encodes or searches differently"
            )


def run_script(script: str, options: Sequence[str]) -> list[Evaluation]:
    """Run one recipe and read what it prints; its main search comes first."""
    command = [sys.executable, str(Path(__file__).with_name(script)), "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{script} ended with code {done.returncode}; its message is above")
    content = json.loads(done.stdout)
    others = content.pop("other_searches", [])
    return [Evaluation(**row) for row in (content, *others)]


def unique(found: Sequence[Found]) -> list[Evaluation]:
    """Lay all searches in a row; those without a model, such as BM25, come up once."""
    kept: dict[tuple[str, str], Evaluation] = {}
    for searches in found:
        for row in chain.from_iterable(searches.values()):
            kept.setdefault((row.model, row.search), row)
    return list(kept.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, run, print, and only then judge."""
    parser = recipe_parser(__doc__, several_models=True)
    parser.add_argument("--ecosystems", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args(arguments)
    shared = [flag for flag in ("--force", "--quiet") if getattr(options, flag[2:])]
    for name in ("data", "split", "drop-same-id", "max-length", "precision", "device"):
        value = getattr(options, name.replace("-", "_"))
        shared += [f"--{name}", str(value)] if value is not None else []
    with errors.plain_errors(options.debug):
        found = compare_ecosystems(options.model or [None], options.ecosystems, shared, options.out)
        rows = unique(found)
        content = [row.to_json() for row in rows] if options.json else search_table(rows)
        console.show(content, options.json, quiet=False)
        check_agreement(found)


if __name__ == "__main__":
    main()
