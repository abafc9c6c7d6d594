"""Pairs with hard negatives, found by the teacher: it is faster than the student, and better."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mini.mixture import RETRIEVAL_PAIRS

from effir_integrations import load_beir, mine
from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.files import new_folder

from .held_out import SPLIT

PAIRS = "pairs.jsonl"


def mine_pairs(
    teacher: Any,
    texts: Path,
    judged: Path,
    seen: Path,
    out: Path,
    *,
    fits: Callable[[str], bool],
    others: int,
    negatives: int,
    seed: int,
) -> None:
    """Write `out/pairs.jsonl`: the claims that may be trained on and a sample of other pairs.

    Args:
        teacher: Ranks the passages.
        texts: Folder of the gathered texts and pairs.
        judged: The BEIR folder whose train claims are among the gathered pairs.
        seen: BEIR folder of those claims that may be trained on.
        out: Folder to write.
        fits: Says whether a query is short enough to be trained on.
        others: How many of the gathered pairs that are no claims.
        negatives: For each pair.
        seed: Of the sample and of the order.
    """
    draw = random.Random(seed)
    claims = set(load_beir(judged, SPLIT, "no").queries.values())
    rows = (row for _, row in read_jsonl(texts / RETRIEVAL_PAIRS))
    plain = {x["query"]: x for x in rows if x["query"] not in claims and fits(x["query"])}
    with new_folder(out) as folder:
        _write(folder / "others.jsonl", draw.sample(list(plain.values()), min(others, len(plain))))
        found = []
        for source, name in ((seen, "claims"), (folder / "others.jsonl", "others")):
            mined = folder / f"{name}-mined.jsonl"
            mine(teacher, source, mined, split=SPLIT, negatives=negatives, seed=seed)
            found += [row for _, row in read_jsonl(mined) if fits(row["query"])]
        _write(folder / PAIRS, draw.sample(found, len(found)))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
