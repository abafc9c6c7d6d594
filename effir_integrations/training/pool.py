"""Gather the queries and the passages that negatives are mined for and from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from effir_integrations.data.beir import load_beir
from effir_integrations.data.text import clean_text
from effir_integrations.data.training_rows import (
    Source,
    TrainingRow,
    beir_rows,
    parse_row,
    read_rows,
    source_kind,
    source_name,
)

from ..progress import progress_bar

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Pool:
    """Different queries with all their positives, and different passages, in order."""

    positives: dict[tuple[str | None, str], dict[str, None]] = field(default_factory=dict)
    """(own prompt, query) -> texts of its positives."""
    passages: dict[str, None] = field(default_factory=dict)
    """Texts of all passages, positives included."""


def read_pool(source: Source, split: str, *, show_progress: bool) -> Pool:
    """Read a BEIR folder or training rows; the same query on several rows becomes one.

    Raises:
        FileNotFoundError: If nothing is there, or there is no such split.
        ValueError: If a row cannot be used, or there is no query.
    """
    name, pool = source_name(source), Pool()
    rows: Iterable[TrainingRow]
    if source_kind(source) == "beir":
        data = load_beir(os.path.expanduser(name), split, show_progress=show_progress)
        # An empty document cannot be trained on.
        texts = (text for text in data.documents.values() if text.strip())
        pool.passages.update((clean_text(text), None) for text in texts)
        rows = (parse_row(raw, where=at, number=n) for at, n, raw in beir_rows(name, data))
    else:
        rows = read_rows(source)
    lines = _add_rows(pool, rows, f"Reading {name}", show_progress)
    if not pool.positives:
        raise ValueError(f"{name}: holds no query with a positive; give at least one.")
    if merged := lines - len(pool.positives):
        logger.warning(
            "%s: %d queries repeat an earlier one: merged with it, with all positives", name, merged
        )
    return pool


def _add_rows(
    pool: Pool, rows: Iterable[TrainingRow], description: str, show_progress: bool
) -> int:
    bar = progress_bar(rows, desc=description, unit="query", shown=show_progress)
    lines = 0
    for lines, row in enumerate(bar, start=1):
        known = pool.positives.setdefault((row.prompt, row.query), {})
        for text in row.positives:
            known[text] = pool.passages[text] = None
        pool.passages.update(dict.fromkeys(row.negatives))
    return lines
