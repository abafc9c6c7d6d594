"""A small BEIR folder whose queries any encoder answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCUMENTS = [
    {"_id": f"d{row}", "title": f"w{row}", "text": f"w{row + 20} w{row + 40}"} for row in range(12)
]
# Each of the first five queries repeats a document, so that any encoder finds it.
QUERIES = [{"_id": f"q{row}", "text": f"w{row} w{row + 20} w{row + 40}"} for row in range(6)]
QRELS = [(f"q{row}", f"d{row}", "1") for row in range(5)]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_beir(
    folder: Path,
    corpus: Iterable[dict[str, Any] | str] = DOCUMENTS,
    queries: Iterable[dict[str, Any] | str] = QUERIES,
    qrels: Iterable[tuple[str, ...] | str] = QRELS,
    split: str = "test",
) -> Path:
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        write_lines(folder / f"{name}.jsonl", lines)
    lines = [row if isinstance(row, str) else "\t".join(row) for row in qrels]
    write_lines(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return folder
