"""Mine hard negatives: passages that an encoder ranks high and nobody judged relevant."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_integrations.data.training_rows import Source, check_new_jsonl, source_kind, source_name
from effir_integrations.encoder.encoder import role_prompt
from effir_integrations.extras import import_extra
from effir_integrations.files import new_file
from effir_integrations.html_table import html_fields
from effir_integrations.progress import is_shown
from effir_integrations.training.pool import Pool, read_pool
from effir_integrations.training.search import SearchConfig, search_pool

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Mined:
    """What `mine` wrote."""

    path: Path
    """The .jsonl file."""
    queries: int
    """Lines: different queries."""
    negatives: int
    """Negatives of all lines together."""
    short: int
    """Lines with fewer negatives than were asked for; perhaps with none."""
    filled: int = 0
    """Of all negatives, those that were drawn at random."""

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("Mined", vars(self))


def mine(
    encoder: SentenceTransformer,
    source: Source,
    out: str | Path,
    *,
    split: str = "train",
    negatives: int = 7,
    range_min: int = 0,
    range_max: int = 1000,
    relative_margin: float | None = 0.05,
    absolute_margin: float | None = None,
    batch_size: int = 32,
    query_prompt_name: str | None = None,
    query_prompt: str | None = None,
    document_prompt_name: str | None = None,
    document_prompt: str | None = None,
    use_faiss: bool = False,
    fill: bool = True,
    seed: int = 0,
    show_progress: bool | None = None,
    force: bool = False,
) -> Mined:
    """Write a training file in which every query has the best-ranked passages not relevant to it.

    Each line holds `query`, `pos` (all positives of the query), `neg` (best first, without
    prompts) and, where the source has one, `prompt`. The same query on several lines of the source
    becomes one line with all their positives. A passage with the text of a positive is never a
    negative. Queries, passages and their embeddings are held in memory.

    Args:
        encoder: Ranks the passages, by its own similarity.
        source: A BEIR folder, whose corpus is ranked, or training rows as `load_training` takes
            them, of which all positives and negatives are ranked.
        out: The .jsonl file to write.
        split: Which judgements of a BEIR folder to read; "test" is refused.
        negatives: How many to look for; the paper trains with 7.
        range_min: Skip that many of the best candidates, as they may be relevant and not judged.
        range_max: Look at that many candidates. A query whose positive is ranked below all of
            them gets no negative that the margin allows. Each takes some 30 bytes a query.
        relative_margin: Refuse a candidate unless its similarity is below that of the query's
            worst positive by this share of it (NV-Retriever's 95 %); None takes all.
        absolute_margin: The same as a difference of similarities.
        batch_size: Texts in each batch of a stock model; an `Encoder` cuts by tokens.
        query_prompt_name: Name of the encoder's prompt for queries; None is "query" if it has one.
        query_prompt: The prompt itself, instead of a name. A row's own prompt goes before both.
        document_prompt_name: Name of its prompt for passages; None is "document" if it has one.
        document_prompt: The prompt itself, instead of a name.
        use_faiss: Search with FAISS.
        fill: Where too few were found, draw the rest at random from the passages that are no
            positives of the query, so that every line can be trained on.
        seed: Of these draws.
        show_progress: Show bars;
            None: where someone watches, in a notebook or a terminal.
        force: Replace `out`.

    Raises:
        FileExistsError: If `out` exists and `force` was not given.
        FileNotFoundError: If nothing is at `source`, or it has no such split.
        ImportError: If the package `datasets` is missing, or FAISS and it was asked for.
        ValueError: If an argument or a row cannot be used, or no query got a negative.
        RuntimeError: If a positive came out as a negative.
    """
    show_progress = is_shown(show_progress)
    out = Path(out)
    config = SearchConfig(
        negatives=negatives,
        range_min=range_min,
        range_max=range_max,
        relative_margin=relative_margin,
        absolute_margin=absolute_margin,
        batch_size=batch_size,
    )
    check_mining(source, out, split=split, force=force)
    for name in (query_prompt_name, document_prompt_name):
        _check_prompt_name(encoder, name)
    if use_faiss:
        import_extra("faiss")
    with new_file(out) as partial:
        pool = read_pool(source, split, show_progress=show_progress)
        prompts: dict[str, Any] = {
            "query_prompt_name": query_prompt_name,
            "query_prompt": query_prompt,
            "corpus_prompt_name": document_prompt_name,
            "corpus_prompt": document_prompt,
        }
        anchors = {key: key[1] for key in pool.positives}
        if any(own is not None for own, _ in pool.positives):
            # A search has one prompt for all; so each query brings its own in its text.
            default = _default_prompt(encoder, query_prompt, query_prompt_name)
            anchors = {
                (own, query): (default if own is None else own) + query for own, query in anchors
            }
            prompts.update(query_prompt_name=None, query_prompt="")
        found = search_pool(
            encoder,
            pool,
            anchors,
            config,
            prompts,
            use_faiss=use_faiss,
            show_progress=show_progress,
        )
        lines = list(_lines(pool, anchors, found))
        if not any(line["neg"] for line in lines):
            raise ValueError(
                f"{source_name(source)}: no negative was found for any of {len(lines)} queries; "
                "lower --relative-margin, raise --range-max, or give more passages."
            )
        filled = _fill(lines, list(pool.passages), negatives, seed) if fill else 0
        mined = _summary(lines, out, negatives, filled)
        with partial.open("w", encoding="utf-8") as stream:
            for line in lines:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        return mined


def check_mining(source: Source, out: Path, *, split: str, force: bool) -> None:
    """Refuse what no encoder is needed to refuse, before one is loaded.

    Raises:
        FileExistsError: If `out` exists and `force` was not given.
        FileNotFoundError: If nothing is at `source`.
        ImportError: If the package `datasets` is missing.
        ValueError: If `out` or `source` is of no known kind, or the split is "test".
    """
    check_new_jsonl(out, force=force)
    if source_kind(source) == "beir" and split == "test":
        raise ValueError(
            f"{source_name(source)}: the split 'test' is for evaluation, and training on it would "
            "spoil every figure; use --split train."
        )
    import_extra("datasets", "train")


def _check_prompt_name(encoder: SentenceTransformer, name: str | None) -> None:
    if name is not None and name not in encoder.prompts:
        known = ", ".join(repr(known) for known in encoder.prompts) or "none"
        raise ValueError(f"prompt name {name!r} is not known to the model; its names are: {known}.")


def _default_prompt(encoder: SentenceTransformer, prompt: str | None, name: str | None) -> str:
    """Return what `encode_query` would put in front of a query."""
    if prompt is not None:
        return prompt
    if name is not None:
        return encoder.prompts[name] or ""
    return role_prompt(encoder, "query")


def _lines(
    pool: Pool, anchors: dict[tuple[str | None, str], str], found: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    for key, positives in pool.positives.items():
        prompt, query = key
        negatives = found.get(anchors[key], [])
        if wrong := [text for text in negatives if text in positives]:
            raise RuntimeError(
                f"a positive of the query {query[:60]!r} came out as a negative: "
                f"{wrong[0][:60]!r}; nothing was written, please report it."
            )
        line: dict[str, Any] = {"query": query, "pos": list(positives), "neg": negatives}
        yield line if prompt is None else {**line, "prompt": prompt}


def _fill(lines: list[dict[str, Any]], passages: list[str], wanted: int, seed: int) -> int:
    """Give short lines random negatives behind those that were found; return how many."""
    filled = 0
    for number, line in enumerate(lines):
        taken = {*line["pos"], *line["neg"]}
        missing = min(wanted - len(line["neg"]), len(passages) - len(taken))
        if missing <= 0:
            continue
        drawn = random.Random(f"{seed}/{number}").sample(
            passages, min(len(passages), missing + len(taken))
        )
        line["neg"] += [text for text in drawn if text not in taken][:missing]
        filled += missing
    return filled


def _summary(lines: list[dict[str, Any]], out: Path, wanted: int, filled: int) -> Mined:
    counts = [len(line["neg"]) for line in lines]
    mined = Mined(
        path=out,
        queries=len(counts),
        negatives=sum(counts),
        short=sum(count < wanted for count in counts),
        filled=filled,
    )
    if mined.short:
        logger.warning(
            "%d of %d queries have fewer than %d negatives, and training on that many refuses "
            "them: lower the margin, raise range_max, or train with fewer",
            mined.short,
            mined.queries,
            wanted,
        )
    return mined
