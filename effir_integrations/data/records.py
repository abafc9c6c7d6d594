"""The id and the text of a record, in the spellings that retrieval corpora use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ID_KEYS = ("docid", "_id", "id", "qid")
"""Tevatron and Anserini, BEIR, Pyserini, topics."""
TEXT_KEYS = ("text", "contents", "query")
"""BEIR and Tevatron, Pyserini, training files."""


def identified_text(record: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return the id and the text of a record; a title goes in front, joined by a space.

    Args:
        record: Holds one of `ID_KEYS`, one of `TEXT_KEYS` and, if it likes, `title`.
        where: File and line or row, for the error.

    Raises:
        ValueError: There is no id, or no text, or one is of the wrong kind.
    """
    identifier = next((record[key] for key in ID_KEYS if record.get(key) is not None), None)
    # readers that guess column types make integers of ids such as "31715818"
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str) or not identifier:
        raise ValueError(
            f"{where}: no id (found {identifier!r}); give one of the keys {', '.join(ID_KEYS)} a "
            "string that is not empty"
        )
    text = next((record[key] for key in TEXT_KEYS if record.get(key) is not None), None)
    if not isinstance(text, str):
        raise ValueError(
            f"{where}: {identifier!r} has no text (found {type(text).__name__}); give one of the "
            f"keys {', '.join(TEXT_KEYS)} a string"
        )
    title = record.get("title") or ""
    if not isinstance(title, str):
        raise ValueError(f"{where}: the title of {identifier!r} is a {type(title).__name__}")
    return identifier, f"{title} {text}".strip()
