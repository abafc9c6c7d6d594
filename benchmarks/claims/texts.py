"""The texts of the claims: two data sets, what is trained on, and what isotropy is taken of."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from subset import subset

from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.demo.docstrings import build_docstring_corpus

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_FEWEST_WORDS, _MOST_WORDS = 4, 30
"""Of a sentence that stands in for a query."""


def content_hash(content: Any) -> str:
    """Return the SHA-256 of what JSON makes of something."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def processor(device: str | None = None) -> str:
    """Return the name of the GPU, or of the processor and how many of its threads there are."""
    if device is not None and device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", path.read_text()) if path.is_file() else []
    return f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()


def docstring_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the docstring corpus, built where none was given."""
    if options.docstrings is not None:
        return Path(options.docstrings)
    folder: Path = options.work / "docstrings"
    if not folder.is_dir():
        build_docstring_corpus(folder)
    return folder


def load_sets(options: argparse.Namespace) -> tuple[RetrievalData, RetrievalData]:
    """Load both data sets, or the part of them that is asked for.

    Data without training queries are refused before anything is measured.

    Raises:
        FileNotFoundError: A folder, or a split of judgements, is not there.
        ValueError: Both data sets have the same name.
    """
    load_beir(options.data, "train")
    data, docstrings = (
        subset(load_beir(folder, "test"), queries=options.queries, others=options.others)
        for folder in (options.data, docstring_folder(options))
    )
    if data.name == docstrings.name:
        raise ValueError(f"both data sets are called {data.name}; give folders of different names")
    return data, docstrings


def training_rows(
    options: argparse.Namespace, data: RetrievalData, docstrings: RetrievalData
) -> list[dict[str, Any]]:
    """Return train queries with their documents, and titles with their texts, of both corpora.

    As many as the fine-tuning takes: all train queries, the rest in equal parts from the titles. A
    train query that is a test query as well is left out.
    """
    train = load_beir(options.data, "train")
    tested = {text.casefold() for each in (data, docstrings) for text in each.queries.values()}
    rows = []
    for query, text in train.queries.items():
        relevant = [train.documents[x] for x in train.relevant(query)]
        if relevant and text.casefold() not in tested:
            rows.append({"query": text, "pos": relevant, "neg": []})
    missing = max(0, options.steps * options.batch - len(rows))
    for folder in (Path(options.data), docstring_folder(options)):
        titles = list(_titles(folder))
        chosen = random.Random(0).sample(range(len(titles)), min(missing // 2, len(titles)))
        rows += [titles[index] for index in sorted(chosen)]
    return rows


def _titles(folder: Path) -> Iterator[dict[str, Any]]:
    for _, row in read_jsonl(folder / "corpus.jsonl", required=("_id", "text")):
        if (row.get("title") or "").strip() and row["text"].strip():
            yield {"query": row["title"], "pos": [row["text"]], "neg": []}


def query_texts(options: argparse.Namespace, docstrings: RetrievalData) -> list[str]:
    """Return texts of a query's length for isotropy: queries first, then sentences of documents."""
    train = load_beir(options.data, "train")
    texts = dict.fromkeys([*train.queries.values(), *docstrings.queries.values()])
    for document in train.documents.values():
        if len(texts) >= options.isotropy_queries:
            break
        for sentence in _SENTENCE_END.split(document):
            if _FEWEST_WORDS <= len(sentence.split()) <= _MOST_WORDS:
                texts.setdefault(sentence)
    return list(texts)[: options.isotropy_queries]


def triples(data: RetrievalData, limit: int) -> tuple[list[str], list[str], list[str]]:
    """Return queries, a relevant document of each, and one that is relevant to another query."""
    relevant = {query: data.relevant(query) for query in data.queries}
    queries = [query for query in data.queries if relevant[query]][:limit]
    positives = [relevant[query][0] for query in queries]
    negatives = []
    for place, query in enumerate(queries):
        others = (positives[place - step] for step in range(1, len(queries)))
        negatives.append(next((x for x in others if x not in relevant[query]), positives[place]))
    return (
        [data.queries[query] for query in queries],
        [data.documents[document] for document in positives],
        [data.documents[document] for document in negatives],
    )
