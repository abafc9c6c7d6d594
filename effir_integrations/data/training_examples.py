"""Load training examples: one query, one positive, some negatives, perhaps scores."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_integrations.data.arrow import content_sha256, write_dataset
from effir_integrations.data.text import clean_text
from effir_integrations.data.training_rows import (
    Kind,
    Source,
    TrainingRow,
    read_rows,
    source_kind,
    source_name,
)
from effir_integrations.extras import import_extra
from effir_integrations.fields import check_fields
from effir_integrations.files import file_sha256
from effir_integrations.html_table import html_fields

from ..progress import progress_bar

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

_FORMAT = 1
"""Raise it when the same source and options give other examples, so that no old cache is read."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Examples on disk, ready for a trainer, and where they came from.

    Raises:
        ValueError: If there is no example, or the columns are not those that the fields say.
    """

    source: str
    """What was asked for: a path, a `datasets` name, or "rows" for rows in memory."""
    sha256: str
    """Hash over the content of all examples in order, prompts included."""
    dataset: datasets.Dataset
    """Columns `query`, `positive`, `negative_1` ... `negative_N`, and `label` only if scored: one
    score a passage, the positive first."""
    negatives: int
    """N, the negatives of each example."""
    scored: bool
    """Whether there is a column `label`."""

    def __post_init__(self) -> None:
        expected = _columns(self.negatives, self.scored)
        if self.dataset.column_names != expected:
            raise ValueError(
                f"Training data from {self.source!r} has the columns {self.dataset.column_names}; "
                f"expected {expected}: load it with load_training."
            )
        if not len(self.dataset):
            raise ValueError(f"{self.source}: holds no example; give at least one line.")

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.dataset)

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("TrainingData", {**vars(self), "dataset": f"{len(self):,} examples"})


@dataclass(frozen=True, kw_only=True)
class _Options:
    negatives: int
    scored: bool
    query_prompt: str
    document_prompt: str
    max_query_tokens: int | None
    limit: int | None
    seed: int

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("negatives", 0), ("limit", 1), ("max_query_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"{name}={value!r} is not allowed; give an integer from {least} up."
                )


def load_training(
    source: Source,
    *,
    negatives: int = 7,
    scored: bool = False,
    query_prompt: str = "",
    document_prompt: str = "",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_query_tokens: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    show_progress: bool = False,
) -> TrainingData:
    """Read training data into one example a line: a query, a positive and N negatives.

    Of several positives one is drawn, and N negatives without replacement, in the order of their
    line; a negative that is also a positive of its line is never drawn. The draw depends on the
    seed and the line number alone. Lines stream to an Arrow file on disk: memory does not grow
    with them (except for a BEIR folder, whose corpus is held while it is read).

    Args:
        source: One of

            * a .jsonl file, one object a query: `query`, `pos` and `neg` (lists of strings), and
              if they like `pos_scores`, `neg_scores` (a number a passage) and `prompt` (put in
              front of this query instead of `query_prompt`);
            * a .jsonl file with `query`, `positive_passages` and `negative_passages` (lists of
              objects with `title` and `text`, joined by a space);
            * a BEIR folder with qrels/train.tsv, which has no negatives;
            * a `datasets` name `NAME[:CONFIG[:SPLIT]]` with one of the two schemas;
            * a list of dictionaries with one of the two schemas.
        negatives: N; the paper has 7.
        scored: Make the column `label` of the scores; otherwise scores are ignored.
        query_prompt: Put in front of each query.
        document_prompt: Put in front of each passage.
        tokenizer: Counts the tokens of queries; needed for `max_query_tokens`.
        max_query_tokens: Refuse a query that is longer, prompt and special tokens included.
        limit: Read the first `limit` lines only.
        seed: Seed of the draws.
        cache_dir: Folder for the Arrow file, where an unchanged file or BEIR folder is found again;
            None makes a temporary one that goes when the process ends.
        show_progress: Show a bar over the lines.

    Raises:
        FileNotFoundError: If nothing is at a path, or no dataset has that name.
        ImportError: If the package `datasets` is not installed.
        ValueError: If an option is not allowed or a line cannot be used: an unknown schema, no
            positive, too few negatives, a blank text, scores that are missing, not finite or not
            one a passage, a query too long; or if there is no line.
    """
    options = _Options(
        negatives=negatives,
        scored=scored,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_query_tokens=max_query_tokens,
        limit=limit,
        seed=seed,
    )
    if max_query_tokens is not None and tokenizer is None:
        raise ValueError(
            f"max_query_tokens={max_query_tokens} needs a tokenizer to count them; pass tokenizer."
        )
    kind = source_kind(source)
    if kind == "beir":
        _check_beir_options(source_name(source), options)
    import_extra("datasets", "train")
    dataset = _build(source, kind, options, tokenizer, cache_dir, show_progress)
    return TrainingData(
        source=source_name(source),
        sha256=content_sha256(dataset),
        dataset=dataset,
        negatives=negatives,
        scored=scored,
    )


def _check_beir_options(name: str, options: _Options) -> None:
    if options.scored:
        raise ValueError(
            f"{name}: a BEIR folder has no scores; run `effir mine MODEL mined.jsonl --data "
            f"{name}`, then `effir score`, and train on the file it writes."
        )
    if options.negatives:
        raise ValueError(
            f"{name}: a BEIR folder has no negatives, but negatives={options.negatives}; run "
            f"`effir mine MODEL mined.jsonl --data {name}` first and train on that file, or set "
            "--negatives 0."
        )


def _columns(negatives: int, scored: bool) -> list[str]:
    names = [f"negative_{number}" for number in range(1, negatives + 1)]
    return ["query", "positive", *names, *(["label"] if scored else [])]


def _build(
    source: Source,
    kind: Kind,
    options: _Options,
    tokenizer: PreTrainedTokenizerBase | None,
    cache_dir: str | Path | None,
    show_progress: bool,
) -> datasets.Dataset:
    datasets = import_extra("datasets", "train")
    features = {name: datasets.Value("string") for name in _columns(options.negatives, False)}
    if options.scored:
        score = datasets.Value("float32")  # some devices have no float64
        features["label"] = datasets.Sequence(score, length=1 + options.negatives)
    content = _fingerprint(source, kind)
    arguments = {
        "source": source if isinstance(source, (str, Path)) else tuple(source),
        "content": f"{_FORMAT}-{content}",
        "options": options,
        "tokenizer": tokenizer if options.max_query_tokens is not None else None,
        "show_progress": show_progress,
    }
    return write_dataset(
        _examples,
        arguments,
        datasets.Features(features),
        cache_dir=cache_dir,
        reusable=content is not None,
    )


def _fingerprint(source: Any, kind: Kind) -> str | None:
    """Return a hash over the files of a source, or None if it has none of its own."""
    if kind in ("name", "rows"):
        return None
    path = Path(os.path.expanduser(source))
    if kind == "file":
        return file_sha256(path)
    parts = [path / "corpus.jsonl", path / "queries.jsonl", path / "qrels" / "train.tsv"]
    # What is not there is named by the reader.
    return " ".join(file_sha256(part) for part in parts if part.is_file())


def _examples(
    source: Source,
    content: str,
    options: _Options,
    tokenizer: PreTrainedTokenizerBase | None,
    show_progress: bool,
) -> Iterator[Mapping[str, Any]]:
    rows = islice(read_rows(source, scored=options.scored), options.limit)
    name = source_name(source)
    bar = progress_bar(rows, desc=f"Reading {name}", unit="line", shown=show_progress)
    empty = True
    for row in bar:
        empty = False
        example = _draw(row, options)
        if tokenizer is not None and options.max_query_tokens is not None:
            _check_query(row, example["query"], tokenizer, options.max_query_tokens)
        yield example
    if empty:
        raise ValueError(f"{name}: holds no example, or blank lines only; give at least one line.")


def _draw(row: TrainingRow, options: _Options) -> dict[str, Any]:
    generator = random.Random(f"{options.seed}/{row.number}")
    positive = generator.randrange(len(row.positives))
    relevant = set(row.positives)
    usable = [index for index, text in enumerate(row.negatives) if text not in relevant]
    if len(usable) < options.negatives:
        repeated = len(row.negatives) - len(usable)
        raise ValueError(
            f"{row.where}: has {len(usable)} negatives"
            + (f" (and {repeated} that are also positives)" if repeated else "")
            + f", but negatives={options.negatives}; mine more with `effir mine`, or lower "
            "--negatives."
        )
    chosen = sorted(generator.sample(usable, options.negatives))
    prompt = options.query_prompt if row.prompt is None else row.prompt
    before = clean_text(options.document_prompt)
    example: dict[str, Any] = {
        "query": clean_text(prompt) + row.query,
        "positive": before + row.positives[positive],
    }
    for number, index in enumerate(chosen, start=1):
        example[f"negative_{number}"] = before + row.negatives[index]
    if row.positive_scores is not None and row.negative_scores is not None:
        scores = [row.negative_scores[index] for index in chosen]
        example["label"] = [row.positive_scores[positive], *scores]
    return example


def _check_query(
    row: TrainingRow, query: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> None:
    tokens = len(tokenizer(query, truncation=False, verbose=False)["input_ids"])
    if tokens > limit:
        raise ValueError(
            f"{row.where}: its query has {tokens} tokens with prompt and special tokens, and "
            f"{limit} are allowed; shorten it, or raise --max-length."
        )
