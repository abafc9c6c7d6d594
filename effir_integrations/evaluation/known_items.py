"""Questions that a corpus answers by itself: titles, or first sentences, whose text is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.calibration import load_calibration, sample
from ..data.corpus import corpus_file
from ..data.jsonl import read_jsonl, read_lines
from ..data.sentences import sentences
from ..data.text import clean_text

LEAST_DOCUMENTS, LEAST_QUERIES = 100, 20
"""With fewer, what is measured is chance."""
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
class Questions:
    """Documents, and what is asked of them."""

    documents: list[str]
    """Known items lack what is asked: their title, or their first sentence."""
    queries: list[str]
    answers: list[int] | None
    """Of each query, the place of its document; None where queries are somebody's own."""
    source: str
    """What the queries were made of, or their file."""


def questions(
    texts: str | Path | Sequence[str],
    queries: str | Path | Sequence[str] | None = None,
    *,
    documents: int = 5_000,
    query_count: int = 300,
    seed: int = 0,
) -> Questions:
    """Draw documents of a corpus, and take somebody's queries, or ask for known items.

    Args: as of `check`.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: There are too few documents or queries to judge by.
    """
    return asked_of(read_records(texts, documents, seed), queries, query_count, seed)


def asked_of(
    records: Sequence[Record],
    queries: str | Path | Sequence[str] | None,
    query_count: int,
    seed: int,
) -> Questions:
    """Ask for known items of these records, or what somebody asks.

    Raises:
        FileNotFoundError: As of `questions`.
        ValueError: As of `questions`.
    """
    if len(records) < LEAST_DOCUMENTS:
        raise ValueError(
            f"{len(records)} documents are too few to judge by; give at least {LEAST_DOCUMENTS}, "
            "better thousands"
        )
    if queries is None:
        asked = known_items(records, query_count, seed)
    else:
        own = load_calibration(queries, limit=query_count, seed=seed)
        asked = Questions(
            documents=[record.whole for record in records],
            queries=list(own.texts),
            answers=None,
            source=own.source,
        )
    if len(asked.queries) < LEAST_QUERIES:
        raise ValueError(
            f"{len(asked.queries)} queries are too few to judge by; at least {LEAST_QUERIES} are "
            "needed: give --queries, or a corpus with titles or with texts of several sentences"
        )
    return asked


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


def known_items(records: Sequence[Record], count: int, seed: int = 0) -> Questions:
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
    return Questions(
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
