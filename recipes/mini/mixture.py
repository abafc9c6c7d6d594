"""Gather effir-mini's texts from their sources and write them as files of pairs and of texts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir_integrations.data.calibration import Calibration
from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.demo.docstrings import build_docstring_corpus
from effir_integrations.files import new_folder

from . import texts
from .model import PROMPTS
from .texts import Pair

TEXTS = "texts.jsonl"
RETRIEVAL_PAIRS = "pairs.jsonl"
NAME_PAIRS = "names.jsonl"
BEIR = ("scifact", "msmarco-mini", "dbpedia-mini")
JUDGED = "scifact"
"""The BEIR folder whose train split is read."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How many texts of each kind the teacher is asked for, and pairs of each are trained on."""

    docstring_documents: int = 10_000
    docstring_queries: int = 20_000
    definitions: int = 25_000
    packages: int = 5_000
    repeat_train_queries: int = 3
    """There are 919 of them, and they are what a person asks."""
    named_docstrings: int = 24_000
    """Half of them with nothing but name and signature as the document."""
    repeat_library: int = 2


def gather(
    sources: Path, beir: Path, out: Path, amounts: Amounts, seed: int, *, show_progress: bool
) -> None:
    """Write `texts.jsonl` (what is distilled on), `pairs.jsonl` and `names.jsonl` (fine-tuned on).

    Args:
        sources: What `fetch` downloaded.
        beir: Folder of the BEIR folders `BEIR`.
        out: Folder to write.
        amounts: How many of each kind.
        seed: Of the samples and of the order.
        show_progress: Draw bars.
    """
    draw = random.Random(seed)
    with new_folder(out) as folder:
        held_out = build_docstring_corpus(folder / "docstrings", show_progress=show_progress)
        code = list(
            texts.docstring_pairs(sources / "wheels", held_out, show_progress=show_progress)
        )
        packages = list(
            texts.debian_pairs(sources / "debian" / "descriptions", amounts.packages, seed)
        )
        words = list(texts.wordnet_pairs(sources / "wordnet"))
        corpora = {name: texts.corpus_documents(beir / name) for name in BEIR}
        titles = [pair for corpus in corpora.values() for pair in texts.title_pairs(corpus)]
        claims = list(texts.train_pairs(beir / JUDGED))
        write_mixture(
            folder,
            queries=[
                *(pair.query for pair in _some(draw, code, amounts.docstring_queries)),
                *(piece for _, text in corpora[JUDGED] for piece in texts.sentences(text)),
                *(pair.query for pair in [*titles, *claims, *packages]),
            ],
            documents=[
                *(pair.document for pair in _some(draw, code, amounts.docstring_documents)),
                *_joined(texts.corpus_documents(held_out)),
                *(text for corpus in corpora.values() for text in _joined(corpus)),
                *(pair.document for pair in packages),
                *(f"{x.query}: {x.document}" for x in _some(draw, words, amounts.definitions)),
            ],
            pairs=[*code, *titles, *packages, *(claims * amounts.repeat_train_queries)],
            seed=seed,
        )
        write_pairs(folder / NAME_PAIRS, name_pairs(code, held_out, amounts, seed))


def name_pairs(code: Sequence[Pair], held_out: Path, amounts: Amounts, seed: int) -> list[Pair]:
    """Return pairs that need the name of what is documented: the last that is trained on.

    Args:
        code: Docstrings of packages.
        held_out: The docstring corpus: of its documents sentences are taken, of Python's library
            the docstrings that are too short for it.
        amounts: How many.
        seed: Of the samples and of the order.
    """
    draw = random.Random(seed)
    chosen = _some(draw, code, amounts.named_docstrings)
    half = len(chosen) // 2
    pieces = list(texts.sentence_pairs(texts.corpus_documents(held_out), seed))
    found = [
        *chosen[:half],
        *(texts.named(pair) or pair for pair in chosen[half:]),
        *(list(texts.library_pairs(held_out)) * amounts.repeat_library),
        *pieces,
        *(short for pair in pieces if (short := texts.named(pair))),
    ]
    return draw.sample(found, len(found))


def write_mixture(
    folder: Path, *, queries: Iterable[str], documents: Iterable[str], pairs: list[Pair], seed: int
) -> None:
    """Write texts and pairs in random order; no text stands twice in the same role."""
    draw = random.Random(seed)
    roles = (("query", queries), ("document", documents))
    entries = list({(role, text): None for role, found in roles for text in found if text.strip()})
    draw.shuffle(entries)
    _write(folder / TEXTS, ({"role": role, "text": text} for role, text in entries))
    write_pairs(folder / RETRIEVAL_PAIRS, draw.sample(pairs, len(pairs)))


def read_texts(folder: Path) -> tuple[Calibration, Calibration]:
    """Return the texts behind the student's prompts, and as they are for the teacher."""
    rows = [row for _, row in read_jsonl(folder / TEXTS)]
    student = tuple(PROMPTS[row["role"]] + row["text"] for row in rows)
    teacher = tuple(row["text"] for row in rows)
    return (
        Calibration(texts=student, source=TEXTS),
        Calibration(texts=teacher, source=TEXTS),
    )


def _some(draw: random.Random, pairs: Sequence[Pair], number: int) -> list[Pair]:
    return draw.sample(pairs, min(number, len(pairs)))


def _joined(documents: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{title} {text}".strip() for title, text in documents]


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as rows of queries with a positive each."""
    _write(path, ({"query": pair.query, "pos": [pair.document]} for pair in pairs))


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
