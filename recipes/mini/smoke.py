"""A few real texts that every development environment has, to try the whole recipe on."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from effir_integrations.demo.docstrings import build_docstring_corpus
from effir_integrations.files import new_folder

from .mixture import NAME_PAIRS, write_mixture, write_pairs
from .texts import corpus_pairs, named

PACKAGE = "torch"
PAIRS = 160
CHARACTERS = 300
"""Of a document: its first sentences."""


def gather_smoke(out: Path) -> None:
    """Write pairs and texts from the docstrings of one installed package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RuntimeError(f"{PACKAGE} is not installed, though it is needed everywhere")
    with new_folder(out) as folder:
        corpus = build_docstring_corpus(
            folder / "docstrings", library=Path(found.origin).parent / "nn"
        )
        pairs = [
            replace(pair, document=pair.document[:CHARACTERS].rstrip())
            for pair in corpus_pairs(corpus, set(), limit=PAIRS)
        ]
        write_mixture(
            folder,
            queries=[pair.query for pair in pairs],
            documents=[pair.document for pair in pairs],
            pairs=pairs,
            seed=0,
        )
        write_pairs(folder / NAME_PAIRS, [named(pair) or pair for pair in pairs])
