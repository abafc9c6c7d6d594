"""Some train claims of SciFact, kept out of training: every choice and the curve rest on them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.files import new_folder

SPLIT = "train"


def hold_out(judged: Path, out: Path, *, claims: int, documents: int, seed: int) -> None:
    """Write two BEIR folders: `out/seen` to train on, and `out/curve` to measure on.

    No claim of `seen` is answered by a document that answers one of `curve`: SciFact often has a
    claim and its opposite. The corpus of `seen` is whole, that of `curve` a sample.

    Args:
        judged: BEIR folder, of which the train split is read.
        out: Folder to write.
        claims: How many are measured on.
        documents: How many of them are searched, those that answer included.
        seed: Of both samples.
    """
    data = load_beir(judged, SPLIT)
    draw = random.Random(seed)
    measured = set(draw.sample(sorted(data.queries), min(claims, len(data.queries) // 2)))
    answers = {document for claim in measured for document in data.relevant(claim)}
    others = sorted(set(data.documents) - answers)
    found = answers | set(draw.sample(others, min(len(others), max(0, documents - len(answers)))))
    seen = {claim for claim in data.queries if not answers & set(data.relevant(claim))}
    with new_folder(out) as folder:
        _write(folder / "curve", data, measured, found)
        _write(folder / "seen", data, seen, data.documents)


def _write(folder: Path, data: RetrievalData, claims: set[str], documents: Iterable[str]) -> None:
    (folder / "qrels").mkdir(parents=True)
    kept = set(documents)
    _lines(
        folder / "corpus.jsonl",
        ({"_id": x, "text": text} for x, text in data.documents.items() if x in kept),
    )
    _lines(
        folder / "queries.jsonl",
        ({"_id": x, "text": text} for x, text in data.queries.items() if x in claims),
    )
    rows = [
        f"{claim}\t{document}\t1\n"
        for claim in data.queries
        if claim in claims
        for document in data.relevant(claim)
    ]
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / f"{SPLIT}.tsv").write_text(header + "".join(rows), encoding="utf-8")


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def measured_claims(curve: Path) -> set[str]:
    """Return the texts that nothing may be trained on."""
    return set(load_beir(curve, SPLIT).queries.values())
