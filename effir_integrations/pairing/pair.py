"""Put a small encoder of queries and the full one of documents into one folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.calibration import Calibration, load_calibration
from ..encoder.encoder import Encoder, transformer_model
from ..encoder.history import history_at, with_stage
from ..encoder.loading import load
from ..encoder.search_vectors import mean_cosine, search_vectors
from ..encoder.sources import find_source
from ..encoder.space_record import documents_of
from ..files import claimed
from ..html_table import html_fields
from ..model.peft_folder import with_bases
from ..progress import is_shown, progress_bar
from .mapping import Mapped, check_map, fit_map, load_map_texts
from .towers import (
    Tower,
    check_code,
    check_one_space,
    pair_prompts,
    tower_of,
    tower_on_disk,
    unlike_spaces,
)
from .writing import Nearness, Side, same_base, write_pair

_COMPARED = 32
"""Texts that both towers encode, to say how near they are."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What `pair` wrote."""

    out: Path
    queries: Path | None
    """Folder of the query encoder alone, where one was asked for."""
    documents: Path | None
    """Folder of the document encoder alone, where one was asked for."""
    dimension: int | None
    """Of a vector."""
    query_parameters: int
    """Without an LM head."""
    document_parameters: int
    """Without an LM head."""
    same_base: bool
    """Whether both record the same base, or one is the base of the other."""
    cosine: float
    """Mean one of the vectors that the two encoders give of the same queries; where a map was
    asked for, of those that were held out."""
    map: Mapped | None = None
    """The linear map behind the query encoder, where one was asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        folders = ("out", "queries", "documents")
        named = {name: str(x) if (x := getattr(self, name)) else None for name in folders}
        return {**asdict(self), **named}

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("Paired", self.to_json())


def pair(
    queries: str | Path,
    documents: str | Path,
    out: str | Path,
    *,
    map: str | None = None,
    texts: Calibration | str | Path | Sequence[str] | None = None,
    apart: bool = False,
    force: bool = False,
    show_progress: bool | None = None,
) -> Paired:
    """Write two encoders of one space as one Sentence Transformers folder.

    `encode_query` runs the small one, `encode_document` and plain `encode` the full one, each with
    its own tokenizer, length and prompt. Both give the vectors that they give alone: the folder is
    loaded again and compared, bit for bit, before it gets its name.

    With `map` a Dense without bias is put behind the query encoder, which takes its vectors closer
    to those that the other one gives of the same texts: solved for in closed form, without labels,
    and kept only if it does so on a fifth of the texts that it was not fitted to.

    Args:
        queries: Encoder of queries, pruned from that of documents or trained to follow it; a
            folder, a name on the hub or effir-mini.
        documents: Encoder of documents, likewise.
        out: Folder to write; must be new or empty unless `force`.
        map: `ridge` (any linear map, held back by a penalty that texts choose) or `procrustes` (a
            rotation). Encoders whose dimension or head differ can be paired with one; it is then
            always kept. None for none.
        texts: What the map is fitted to, read as queries by both: a list, or what
            `load_calibration` takes, of which at most 4,000 are drawn. None takes the sentences of
            those that come with the package.
        apart: Also write each encoder alone, beside `out`: its name with -queries and -documents.
        force: Replace what is there, at the end.
        show_progress: Draw a bar over the steps;
            None: where someone watches, in a notebook or a terminal.

    Raises:
        FileExistsError: A folder to write holds something and `force` was not given, or files of
            others.
        FileNotFoundError: There is no such encoder.
        OSError: The disk is full.
        RuntimeError: What was written gives other vectors; nothing is left behind.
        ValueError: One is no encoder, their vectors cannot be compared, a prompt has two texts,
            `out` holds an encoder or lies in one, or a map is not known or has too few texts.
    """
    show_progress = is_shown(show_progress)
    out, names = Path(out), (queries, documents)
    chosen = _map_texts(map, texts)
    places = [out, *_apart(out)] if apart else [out]
    bar = progress_bar(total=3, desc="Pairing", unit="step", shown=show_progress)
    with ExitStack() as stack:
        sources = list(with_bases(find_source(name) for name in names))
        for place in places:
            stack.enter_context(claimed(place, force=force, sources=sources))
        stack.enter_context(bar)
        towers = [tower_on_disk(name) for name in names]
        if towers[0] is not None and towers[1] is not None:
            _check(towers[0], towers[1], map, chosen)
        query, document = (_side(name) for name in names)
        _check(query.tower, document.tower, map, chosen)
        bar.update()
        query, nearness = _mapped(query, document, map, chosen)
        bar.update()
        write_pair(query, document, places, nearness, force=force)
        bar.update()
    return Paired(
        out=out,
        queries=places[1] if apart else None,
        documents=places[2] if apart else None,
        dimension=document.tower.dimension,
        query_parameters=query.parameters,
        document_parameters=document.parameters,
        same_base=same_base(query, document),
        cosine=nearness.cosine,
        map=nearness.map,
    )


def _apart(out: Path) -> list[Path]:
    return [out.with_name(f"{out.name}-{kind}") for kind in ("queries", "documents")]


def _map_texts(
    map: str | None, texts: Calibration | str | Path | Sequence[str] | None
) -> Calibration | None:
    """Return the texts of a map, or None where there is to be none.

    Raises:
        ValueError: Texts are given for no map, or too few.
    """
    if map is None:
        if texts is not None:
            raise ValueError("texts are what a map is fitted to; name it too, or leave them out")
        return None
    chosen = load_map_texts(texts)
    check_map(map, chosen, None)
    return chosen


def _check(query: Tower, document: Tower, map: str | None, texts: Calibration | None) -> None:
    check_one_space(query, document, mapped=map is not None)
    check_code(query, document)
    pair_prompts(query, document)
    if map is not None and texts is not None:
        check_map(map, texts, query.dimension)


def _side(name: str | Path) -> Side:
    encoder = load(name, device="cpu")
    source = str(transformer_model(encoder).name_or_path)
    return Side(
        encoder=encoder,
        tower=tower_of(encoder, name),
        history=history_at(encoder, source),
        documents=documents_of(name),
    )


def _mapped(
    query: Side, document: Side, map: str | None, texts: Calibration | None
) -> tuple[Side, Nearness]:
    """Return the encoder of queries, behind it a map that helps, and how near the two are."""
    if map is None or texts is None:
        cosine = _mean_cosine(query.encoder, document.encoder)
        return query, Nearness(cosine=cosine, texts=_COMPARED)
    needed = unlike_spaces(query.tower, document.tower) is not None
    encoder, found = fit_map(query.encoder, document.encoder, map, texts, needed=needed)
    if found.kept:
        query = replace(
            query,
            encoder=encoder,
            tower=tower_of(encoder, query.tower.name),
            history=with_stage(query.history, found.record()),
            added=sum(x.numel() for x in encoder[-2].parameters()),
        )
    return query, Nearness(cosine=found.cosine, texts=found.held_out, map=found)


def _mean_cosine(query: Encoder, document: Encoder) -> float:
    """Return the mean cosine of what two encoders give of the same queries."""
    texts = load_calibration(limit=_COMPARED).texts
    one, other = (search_vectors(x, texts, kind="query").astype(float) for x in (query, document))
    return mean_cosine(one, other)
