"""Load calibration texts: the shipped sample, a file, a BEIR folder, or a `datasets` name."""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from effir_integrations.data.hub import parse_dataset_name, shown, stream_rows
from effir_integrations.data.jsonl import check_text_file, read_jsonl, read_lines
from effir_integrations.data.text import clean_text
from effir_integrations.html_table import html_fields

from ..progress import progress_bar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SAMPLE = "sample"
"""The name of the texts that come with the package."""

MAX_STREAMED_ROWS = 20_000
"""How many rows of a `datasets` source are looked at when a limit is set: some have no end."""

_LINE_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True, kw_only=True, repr=False)
class Calibration:
    """Texts to measure a model's activations on, and where they came from.

    Raises:
        ValueError: If there is no text, or one is blank, not a string, or not encodable as UTF-8.
    """

    texts: tuple[str, ...]
    """The texts, in the order of their source."""
    source: str
    """What was asked for: "sample", a path, a `datasets` name, or "texts" for a sequence."""
    sha256: str = field(init=False)
    """Hash over the texts, each preceded by its length, so that their boundaries count."""

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError(f"Calibration from {self.source!r} has no text; give at least one.")
        digest = hashlib.sha256()
        for index, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"Calibration text {index} from {self.source!r} is {text!r}; "
                    "each must be a string that is not blank."
                )
            try:
                encoded = text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"Calibration text {index} from {self.source!r} holds a lone surrogate; "
                    "pass the texts through load_calibration, which replaces it."
                ) from error
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        object.__setattr__(self, "sha256", digest.hexdigest())

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def __repr__(self) -> str:
        """Return one line without the texts."""
        return f"Calibration({len(self):,} texts of {self.source})"

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("Calibration", self.record)

    @property
    def record(self) -> dict[str, Any]:
        """What a stage notes of the texts that it read."""
        return {"source": self.source, "sha256": self.sha256, "texts": len(self)}


def load_calibration(
    source: str | Path | Sequence[str] | None = None,
    *,
    limit: int | None = 256,
    seed: int = 0,
    show_progress: bool = False,
) -> Calibration:
    """Read calibration texts, at most `limit` of them, in the order of their source.

    A source that holds more gives a random sample, drawn while it streams by, so that memory
    does not grow with the corpus. Blank texts are skipped; lone surrogates become U+FFFD.

    Args:
        source: One of

            * None or "sample": the 256 texts that come with the package;
            * a .jsonl file: objects with "text" and, if they like, "title", joined by a space;
            * a .txt or .md file: one text a line;
            * a BEIR folder: the documents of its corpus.jsonl;
            * a sequence of strings;
            * a `datasets` name, "owner/name", or a folder that `datasets` can load, spelled
              `NAME[:CONFIG[:SPLIT]][#COLUMN]`, such as "allenai/c4:en:validation" or
              "owner/name::test#body". It is streamed. The split is "train" unless named. Without
              a column, rows are read as those of a .jsonl file are. With a limit, the first
              20,000 rows are what is sampled (or `limit` rows, if that is more).
        limit: The most texts to take; None takes all.
        seed: Seed of the sample.
        show_progress: Show a bar while a long source is read.

    Raises:
        ValueError: If `limit` is below one, or the source is of no known kind, holds no text, is
            compressed or binary, or has a line or row without a text.
        FileNotFoundError: If nothing is at a path, or no dataset has that name.
        ImportError: If a `datasets` name is given and that package is not installed.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit={limit!r} is not allowed; give an integer from 1 up, or None.")
    name = _source_name(source)
    cleaned = (clean_text(text) for text in _open_source(source, limit))
    texts = _sample((text for text in cleaned if text.strip()), limit, seed, show_progress)
    if not texts:
        raise ValueError(f"{name}: holds no text, or blank ones only; give at least one text.")
    return Calibration(texts=tuple(texts), source=name)


def calibrated(texts: Calibration | str | Path | Sequence[str] | None) -> Calibration:
    """Return calibration texts as they are, and read what anything else stands for.

    Of a list all texts are taken, of a file, a corpus or a data set at most 256.

    Raises:
        FileNotFoundError: As of `load_calibration`.
        ValueError: As of `load_calibration`.
    """
    if texts is None or isinstance(texts, str | Path):
        return load_calibration(texts)
    return load_calibration(texts, limit=None) if isinstance(texts, Sequence) else texts


def _source_name(source: object) -> str:
    if source is None:
        return SAMPLE
    if isinstance(source, (str, Path)):
        return str(source)
    return "texts"


def _open_source(source: str | Path | Sequence[str] | None, limit: int | None) -> Iterable[str]:
    if source is None or source == SAMPLE:
        return _sample_texts()
    if isinstance(source, (str, Path)):
        path = Path(os.path.expanduser(source))
        # A folder without a corpus is left to `datasets`, which knows Parquet, CSV and more.
        if os.path.isfile(path) or os.path.isfile(path / "corpus.jsonl"):
            return _from_path(path)
        return _from_name(source, limit)
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return _from_sequence(source)
    raise ValueError(
        f"A calibration source of type {type(source).__name__} is not known; "
        "give a path, a datasets name, a list of strings, or None for the shipped sample."
    )


def _sample_texts() -> Iterator[str]:
    resource = importlib.resources.files("effir_integrations").joinpath("data/calibration.jsonl")
    with importlib.resources.as_file(resource) as path:
        yield from _from_path(path)


def _from_sequence(texts: Sequence[Any]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"Calibration text {index} is a {type(text).__name__}, not a string; "
                "give a list of strings."
            )
        yield text


def _from_path(path: Path) -> Iterator[str]:
    if path.is_dir():
        path = path / "corpus.jsonl"
    check_text_file(path, "a .jsonl, .txt or .md file")
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        rows = read_jsonl(path, required=["text"])
        return (_row_text(row, f"{path} line {line}") for line, row in rows)
    if suffix in _LINE_SUFFIXES:
        return (text for _, text in read_lines(path))
    raise ValueError(
        f"{path}: calibration texts are read from .jsonl, .txt and .md files, not {suffix!r}; "
        "convert it, or name its folder, which `datasets` then reads."
    )


def _row_text(row: Mapping[str, Any], where: str, key: str = "text") -> str:
    title = row.get("title") if key == "text" else None
    for name, value in (("title", "" if title is None else title), (key, row[key])):
        if not isinstance(value, str):
            raise ValueError(
                f"{where}: its {name!r} is a {type(value).__name__}, not a string; "
                "correct or remove it."
            )
    return f"{title or ''} {row[key]}".strip()


def _from_name(source: str | Path, limit: int | None) -> Iterator[str]:
    dataset = parse_dataset_name(source)
    if dataset is None:
        raise FileNotFoundError(
            f"{shown(source)}: nothing is there; expected a .jsonl, .txt or .md file, a BEIR "
            "folder with corpus.jsonl, or a datasets name: owner/name[:config[:split]][#column]."
        )
    rows = stream_rows(str(source), dataset, extra="eval")
    if limit is not None:
        rows = islice(rows, max(limit, MAX_STREAMED_ROWS))
        logger.info("%s: sampling from its first %d rows", source, max(limit, MAX_STREAMED_ROWS))
    return _column_texts(rows, str(source), dataset.column or "text")


def _column_texts(rows: Iterable[Mapping[str, Any]], source: str, column: str) -> Iterator[str]:
    for number, row in enumerate(rows, start=1):
        if column not in row:
            raise ValueError(
                f"{source} row {number}: lacks the column {column!r}; name one of "
                f"{sorted(row)} by adding #COLUMN to the source."
            )
        # Arrow spells a text that is not there as null; nobody can correct it in a hosted set.
        if row[column] is not None:
            yield _row_text(row, f"{source} row {number}", column)


def _sample(texts: Iterator[str], limit: int | None, seed: int, show_progress: bool) -> list[str]:
    bar = progress_bar(texts, desc="Reading texts", unit="text", shown=show_progress)
    return list(bar) if limit is None else sample(bar, limit, seed)


def sample(items: Iterable[Item], limit: int, seed: int) -> list[Item]:
    """Draw `limit` items, each subset equally likely, in one pass (Vitter's algorithm R)."""
    generator = random.Random(seed)
    kept: list[tuple[int, Item]] = []
    for index, item in enumerate(items):
        if index < limit:
            kept.append((index, item))
        elif (slot := generator.randrange(index + 1)) < limit:
            kept[slot] = (index, item)
    return [item for _, item in sorted(kept, key=itemgetter(0))]
