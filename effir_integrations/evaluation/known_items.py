"""Questions that a corpus answers by itself: titles, or first sentences, whose text is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.calibration import sample
from ..data.corpus import corpus_file
from ..data.jsonl import read_jsonl, read_lines
from ..data.sentences import sentences
from ..data.text import clean_text

_FEWEST_WORDS = 3
"""Of a title or sentence that is asked, and three times as many of what it is to find."""


@dataclass(frozen=True)
class Record:
    """A text of a corpus."""

    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text, as documents are encoded."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, kw_only=True)
class KnownItems:
    """Documents, and questions of which it is known what they are to find."""

    documents: list[str]
    """Those that are asked for lack what is asked: their title, or their first sentence."""
    queries: list[str]
    answers: list[int]
    """Of each query, the place of its document."""
    source: str
    """What the queries were made of."""


def read_records(source: str | Path | Sequence[str], limit: int, seed: int = 0) -> list[Record]:
    """Return records of a corpus, at most so many, drawn evenly in one pass.

    Args:
        source: A BEIR folder (its corpus), a .jsonl with `text` and perhaps `title`, a .txt with a
            text on each line, or texts.
        limit: Records that are kept.
        seed: Of the draw.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another kind, or a line cannot be read.
    """
    return sample(_records(source), limit, seed)


def _records(source: str | Path | Sequence[str]) -> Iterator[Record]:
    if not isinstance(source, str | Path):
        yield from (Record("", clean_text(text)) for text in source if text.strip())
        return
    path = corpus_file(source, "document")
    if path.suffix == ".txt":
        yield from (Record("", clean_text(line)) for _, line in read_lines(path))
        return
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is no corpus; give a BEIR folder, a .jsonl or a .txt")
    for line, row in read_jsonl(path, required=("text",)):
        title, text = (row.get(name) or "" for name in ("title", "text"))
        if not isinstance(title, str) or not isinstance(text, str):
            raise ValueError(f"{path} line {line}: title and text must be strings")
        record = Record(clean_text(title).strip(), clean_text(text).strip())
        if record.whole:
            yield record


def known_items(records: Sequence[Record], count: int, seed: int = 0) -> KnownItems:
    """Take titles from some records and ask for what stood under them, or else first sentences.

    Titles and sentences that stand in several records are not asked.

    Args:
        records: Of the corpus.
        count: Queries wanted; there may be fewer.
        seed: Of the draw.
    """
    made: dict[int, tuple[str, str]] = {}
    kinds = []
    for kind, parts in (("titles", _by_title(records)), ("first sentences", _by_sentence(records))):
        if len(made) == count:
            break  # cutting a whole corpus into sentences takes its time
        fitting = [
            (place, query, rest)
            for place, query, rest in _unique(parts)
            if place not in made and _is_long_enough(query, rest)
        ]
        missing = min(count - len(made), len(fitting))
        chosen = random.Random(seed).sample(fitting, missing)
        made.update({place: (query, rest) for place, query, rest in chosen})
        kinds += [f"{missing} {kind}"] * bool(missing)
    places = sorted(made)
    return KnownItems(
        documents=[
            made[place][1] if place in made else record.whole
            for place, record in enumerate(records)
        ],
        queries=[made[place][0] for place in places],
        answers=places,
        source=" and ".join(kinds),
    )


def _by_title(records: Sequence[Record]) -> Iterator[tuple[int, str, str]]:
    return ((place, x.title, x.text) for place, x in enumerate(records))


def _by_sentence(records: Sequence[Record]) -> Iterator[tuple[int, str, str]]:
    for place, record in enumerate(records):
        first, *rest = sentences(record.text) or [""]
        yield place, first, " ".join(rest)


def _unique(parts: Iterable[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    found = list(parts)
    counts = Counter(query.casefold() for _, query, _ in found)
    return [part for part in found if counts[part[1].casefold()] == 1]


def _is_long_enough(query: str, rest: str) -> bool:
    return len(query.split()) >= _FEWEST_WORDS and len(rest.split()) >= 3 * _FEWEST_WORDS
