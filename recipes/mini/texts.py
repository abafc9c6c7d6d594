"""The texts that effir-mini learns from: pairs of a short text and the longer one it stands for.

No query or judgement that it is measured on is among them: of BEIR folders the corpora and the
train split are read, and of the docstring corpus its documents, as texts without queries.
"""

from __future__ import annotations

import logging
import random
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from email.parser import HeaderParser
from pathlib import Path

from effir_integrations.data.beir import load_beir
from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.data.text import clean_text
from effir_integrations.demo.docstrings import build_docstring_corpus, read_docstrings
from effir_integrations.progress import progress_bar

logger = logging.getLogger(__name__)

PERMISSIVE = re.compile(
    r"\b(MIT|0?BSD|Apache|ISC|PSF|Python Software Foundation|HPND|Zlib|MPL|Biopython)",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\b(L?GPL|AGPL|General Public)", re.IGNORECASE)
PER_WHEEL = 3000
"""Some packages are thousands of classes that a generator wrote from one template."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
_MINIMUM_WORDS = 4
_MOST_WORDS = 64
_LONGEST_NAME = 300
"""Characters of a name with its signature; longer ones are lists of constants."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two texts that mean the same thing."""

    query: str
    """Title, first paragraph, word, claim: the shorter one."""
    document: str
    """Body, rest of the docstring, definition."""


def docstring_pairs(wheels: Path, held_out: Path, *, show_progress: bool = False) -> Iterator[Pair]:
    """Yield first paragraph and rest of the docstrings in a folder of wheels.

    Args:
        wheels: Holds `.whl` files; they are read, never installed.
        held_out: The docstring corpus that is measured on: a pair with one of its queries, as
            vendored copies of the standard library have, is left out.
        show_progress: Draw a bar over the wheels.

    Raises:
        ValueError: A wheel's licence is not a permissive one.
    """
    tested = {_folded(query) for query in load_beir(held_out).queries.values()}
    bar = progress_bar(
        sorted(wheels.glob("*.whl")), desc="Docstrings", unit="wheel", shown=show_progress
    )
    for wheel in bar:
        with tempfile.TemporaryDirectory() as folder:
            yield from _pairs_of_wheel(wheel, Path(folder), tested)


def _pairs_of_wheel(wheel: Path, folder: Path, tested: set[str]) -> Iterator[Pair]:
    with zipfile.ZipFile(wheel) as archive:
        check_licence(wheel.name, archive)
        sources = [name for name in archive.namelist() if name.endswith(".py")]
        archive.extractall(folder / "src", sources)
    try:
        made = build_docstring_corpus(folder / "corpus", library=folder / "src")
    except FileNotFoundError:
        logger.info("%s has no docstring of two paragraphs", wheel.name)
        return
    yield from corpus_pairs(made, tested, limit=PER_WHEEL)


def corpus_pairs(corpus: Path, tested: set[str], limit: int | None = None) -> Iterator[Pair]:
    """Yield the pairs of a docstring corpus, at random at most `limit`, but no tested query."""
    data = load_beir(corpus)
    found = [
        Pair(query=text, document=data.documents[next(iter(data.qrels[identifier]))])
        for identifier, text in data.queries.items()
        if _folded(text) not in tested
    ]
    if limit is not None and len(found) > limit:
        found = random.Random(0).sample(found, limit)
    yield from found


def library_pairs(held_out: Path) -> Iterator[Pair]:
    """Yield docstrings of one paragraph in Python's library, each with the name that it stands at.

    The corpus that is measured on has docstrings of two paragraphs and more. What a docstring of
    one shares with a query of it is left out as well.
    """
    tested = {_folded(query) for query in load_beir(held_out).queries.values()}
    for name, signature, docstring in read_docstrings():
        text = " ".join(docstring.split())
        one_paragraph = "\n\n" not in docstring.strip()
        if one_paragraph and 3 <= len(text.split()) <= _MOST_WORDS and _folded(text) not in tested:
            yield Pair(query=text, document=f"{name} {signature}".strip())


def named(pair: Pair) -> Pair | None:
    """Return the pair with name and signature as its document; None where it has no signature."""
    name, found, _ = pair.document.partition("\n")
    return replace(pair, document=name) if found and len(name) < _LONGEST_NAME else None


def sentence_pairs(
    documents: Iterable[tuple[str, str]], seed: int, each: int = 3
) -> Iterator[Pair]:
    """Yield some sentences of each document, with title and all of the text but the sentence."""
    draw = random.Random(seed)
    for title, text in documents:
        pieces = sentences(text)
        for place in draw.sample(range(len(pieces)), min(each, len(pieces))):
            rest = " ".join(pieces[:place] + pieces[place + 1 :])
            if rest and len(pieces[place].split()) >= _MINIMUM_WORDS:
                yield Pair(query=pieces[place], document=f"{title} {rest}".strip())


def check_licence(name: str, archive: zipfile.ZipFile) -> None:
    """Refuse a wheel that does not state a permissive licence.

    Raises:
        ValueError: Its metadata states another licence, or none.
    """
    (metadata,) = [x for x in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", x)]
    headers = HeaderParser().parsestr(archive.read(metadata).decode("utf-8", "replace"))
    classifiers = [x for x in headers.get_all("Classifier", []) if x.startswith("License")]
    stated = " ".join([headers.get("License-Expression", ""), *classifiers])
    if not stated.strip():
        stated = headers.get("License", "")[:200]
    if COPYLEFT.search(stated) or not PERMISSIVE.search(stated):
        raise ValueError(
            f"{name} states the licence {stated.strip()[:80]!r}, which is not known as permissive; "
            "take it off the list of wheels"
        )


def debian_pairs(descriptions: Path, limit: int, seed: int = 0) -> Iterator[Pair]:
    """Yield short and long description of Debian packages, one package of a family."""
    families: dict[str, Pair] = {}
    for entry in descriptions.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        _, found, text = entry.partition("\nDescription-en: ")
        short, _, body = text.partition("\n")
        body = re.sub(r"\s+", " ", body.replace("\n .\n", "\n"))
        if found and len(short.split()) >= _MINIMUM_WORDS and len(body.split()) >= 20:
            # foo, foo-dev and foo-doc say the same
            families.setdefault(body[:120], Pair(query=short, document=body.strip()))
    pairs = sorted(families.values(), key=lambda pair: pair.query)
    yield from random.Random(seed).sample(pairs, min(limit, len(pairs)))


def wordnet_pairs(folder: Path) -> Iterator[Pair]:
    """Yield the words of each WordNet synset and their definition."""
    for path in sorted(folder.rglob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            head, found, gloss = line.partition(" | ")
            if found:
                fields = head.split()
                words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
                names = ", ".join(re.sub(r"\(.*", "", word).replace("_", " ") for word in words)
                yield Pair(query=names, document=gloss.strip())


def corpus_documents(folder: Path) -> list[tuple[str, str]]:
    """Return title and text of the documents of a BEIR folder."""
    rows = (row for _, row in read_jsonl(folder / "corpus.jsonl"))
    return [(clean_text(row.get("title") or "").strip(), clean_text(row["text"])) for row in rows]


def title_pairs(documents: Iterable[tuple[str, str]]) -> Iterator[Pair]:
    """Yield title and text; where there is no title, the first sentence and the rest."""
    for title, text in documents:
        first, *rest = sentences(text)
        if len(title.split()) >= 2:
            yield Pair(query=title, document=text)
        elif rest:
            yield Pair(query=first, document=" ".join(rest))


def train_pairs(folder: Path) -> Iterator[Pair]:
    """Yield the train queries of a BEIR folder with each document that answers them."""
    data = load_beir(folder, "train")
    for identifier, query in data.queries.items():
        for document in data.relevant(identifier):
            yield Pair(query=query, document=data.documents[document])


def sentences(text: str) -> list[str]:
    """Cut a text after full stops; pieces of fewer than four words stay with the one before."""
    pieces: list[str] = []
    for piece in _SENTENCE_END.split(text.strip()):
        if pieces and len(piece.split()) < _MINIMUM_WORDS:
            pieces[-1] += f" {piece}"
        else:
            pieces.append(piece)
    return pieces or [text]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
