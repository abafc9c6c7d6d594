"""Put a small encoder of queries and the full one of documents into one folder."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from ..data.calibration import load_calibration
from ..encoder.encoder import Encoder, transformer_model
from ..encoder.fingerprint import encoder_fingerprint
from ..encoder.folder import PROBES, save_into, saved_bytes
from ..encoder.history import history_at, in_space
from ..encoder.loading import load
from ..encoder.model_files import identify_files
from ..encoder.pair import copy_code
from ..encoder.search_vectors import mean_cosine, search_vectors
from ..encoder.sources import find_source
from ..encoder.space_record import Space, documents_of
from ..encoder.tokenization import save_tokenizer, texts_without_tokens
from ..files import claimed, new_folder, write_json
from ..model.modeling import HISTORY_FILE
from ..model.peft_folder import with_bases
from ..model.plan import versions
from ..progress import progress_bar
from .card import pair_card
from .towers import Tower, check_code, check_one_space, pair_prompts, tower_of, tower_on_disk

ROLES = ("query", "document")
_METHODS = {"query": ("encode_query",), "document": ("encode_document", "encode")}
"""Role -> what runs its tower."""
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
    """Mean one of the vectors that the two encoders give of the same queries."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        folders = ("out", "queries", "documents")
        named = {name: str(x) if (x := getattr(self, name)) else None for name in folders}
        return {**asdict(self), **named}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """One encoder, loaded, and what is written about it."""

    encoder: Encoder
    tower: Tower
    history: dict[str, Any]
    documents: Space
    """The model that gives documents its vectors: itself, or the one that it is a copy of."""

    @classmethod
    def of(cls, name: str | Path) -> _Side:
        encoder = load(name, device="cpu")
        source = str(transformer_model(encoder).name_or_path)
        return cls(
            encoder=encoder,
            tower=tower_of(encoder, name),
            history=history_at(encoder, source),
            documents=documents_of(name),
        )

    def stock(self) -> SentenceTransformer:
        """Return the same modules in the stock class."""
        return SentenceTransformer(
            modules=_modules(self.encoder),
            prompts=self.tower.prompts,
            default_prompt_name=self.tower.default_prompt_name,
            device="cpu",
        )


def pair(
    queries: str | Path,
    documents: str | Path,
    out: str | Path,
    *,
    apart: bool = False,
    force: bool = False,
    show_progress: bool = False,
) -> Paired:
    """Write two encoders of one space as one Sentence Transformers folder.

    `encode_query` runs the small one, `encode_document` and plain `encode` the full one, each with
    its own tokenizer, length and prompt. Both give the vectors that they give alone: the folder is
    loaded again and compared, bit for bit, before it gets its name.

    Args:
        queries: Encoder of queries, pruned from that of documents or trained to follow it; a
            folder, a name on the hub or effir-mini.
        documents: Encoder of documents, likewise.
        out: Folder to write; must be new or empty unless `force`.
        apart: Also write each encoder alone, beside `out`: its name with -queries and -documents.
        force: Replace what is there, at the end.
        show_progress: Draw a bar over the steps.

    Raises:
        FileExistsError: A folder to write holds something and `force` was not given, or files of
            others.
        FileNotFoundError: There is no such encoder.
        OSError: The disk is full.
        RuntimeError: What was written gives other vectors; nothing is left behind.
        ValueError: One is no encoder, their vectors cannot be compared, a prompt has two texts, or
            `out` holds an encoder or lies in one.
    """
    out, names = Path(out), (queries, documents)
    places = [out, *_apart(out)] if apart else [out]
    bar = progress_bar(total=3, desc="Pairing", unit="step", shown=show_progress)
    with ExitStack() as stack:
        sources = list(with_bases(find_source(name) for name in names))
        for place in places:
            stack.enter_context(claimed(place, force=force, sources=sources))
        stack.enter_context(bar)
        towers = [tower_on_disk(name) for name in names]
        if towers[0] is not None and towers[1] is not None:
            _check(towers[0], towers[1])
        query, document = (_Side.of(name) for name in names)
        _check(query.tower, document.tower)
        bar.update()
        cosine = _mean_cosine(query.encoder, document.encoder)
        bar.update()
        _write(query, document, places, cosine=cosine, force=force)
        bar.update()
    return Paired(
        out=out,
        queries=places[1] if apart else None,
        documents=places[2] if apart else None,
        dimension=document.tower.dimension,
        query_parameters=query.history["parameters"],
        document_parameters=document.history["parameters"],
        same_base=_same_base(query, document),
        cosine=cosine,
    )


def _apart(out: Path) -> list[Path]:
    return [out.with_name(f"{out.name}-{kind}") for kind in ("queries", "documents")]


def _modules(encoder: Any) -> list[Any]:
    return list(encoder)


def _check(query: Tower, document: Tower) -> None:
    check_one_space(query, document)
    check_code(query, document)
    pair_prompts(query, document)


def _same_base(query: _Side, document: _Side) -> bool:
    return bool(query.history["fingerprint"] == document.history["fingerprint"])


def _mean_cosine(query: Encoder, document: Encoder) -> float:
    """Return the mean cosine of what two encoders give of the same queries."""
    texts = load_calibration(limit=_COMPARED).texts
    one, other = (search_vectors(x, texts, kind="query").astype(float) for x in (query, document))
    return mean_cosine(one, other)


def _write(
    query: _Side, document: _Side, places: list[Path], *, cosine: float, force: bool
) -> None:
    """Write the pair, and each encoder alone where there are places for them."""
    sizes = [saved_bytes(side.encoder) for side in (query, document)]
    with ExitStack() as stack:
        # those that are entered last get their names first, and the pair when they are there
        partial, *alone = (
            stack.enter_context(new_folder(place, force=force, needed_bytes=needed))
            for place, needed in zip(places, (sum(sizes), *sizes), strict=False)
        )
        spaces = (replace(document.documents, same_documents=False), document.documents)
        for side, space, folder in zip((query, document), spaces, alone, strict=False):
            save_into(side.encoder, in_space(side.history, space), folder)
        _write_pair(query, document, partial, cosine)
        _check_written(query, document, partial)


def _write_pair(query: _Side, document: _Side, folder: Path, cosine: float) -> None:
    """Write the modules of both, with what stock libraries and people need to use them."""
    prompts, default = pair_prompts(query.tower, document.tower)
    router = Router.for_query_document(
        query_modules=_modules(query.encoder), document_modules=_modules(document.encoder)
    )
    made = SentenceTransformer(
        modules=[router],
        prompts=prompts,
        default_prompt_name=default,
        similarity_fn_name=document.encoder.similarity_fn_name,
        device="cpu",
    )
    made.save_pretrained(str(folder), create_model_card=False)
    sides = dict(zip(ROLES, (query, document), strict=True))
    firsts = {role: next(folder.glob(f"{role}_0_*")) for role in ROLES}
    for role, side in sides.items():
        save_tokenizer(side.encoder.tokenizer, firsts[role])
    own_class = copy_code(folder)
    parts = {
        role: {
            "name": side.tower.name,
            "folder": firsts[role].name,
            "fingerprint": encoder_fingerprint(side.encoder),
            "files": identify_files(side.tower.name).identity,
            "history": in_space(side.history, None),
        }
        for role, side in sides.items()
    }
    measured = {"same_base": _same_base(query, document), "cosine": cosine, "texts": _COMPARED}
    record = {"stage": "pair", "config": {}, **measured}
    history = {**parts, "made_by": [record], "versions": versions()}
    write_json(folder / HISTORY_FILE, in_space(history, document.documents))
    card = pair_card(
        query.tower,
        document.tower,
        parameters=(query.history["parameters"], document.history["parameters"]),
        cosine=cosine,
        texts=_COMPARED,
        own_class=own_class,
        base_card=document.encoder._model_card_text,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _check_written(query: _Side, document: _Side, folder: Path) -> None:
    """Compare what stock Sentence Transformers gives of the folder and of each encoder alone.

    Raises:
        RuntimeError: They differ.
    """
    written = SentenceTransformer(str(folder), device="cpu")
    for role, side in zip(ROLES, (query, document), strict=True):
        silent = texts_without_tokens(side.encoder, PROBES)
        texts = [text for place, text in enumerate(PROBES) if place not in silent]
        alone = side.stock()
        for name in _METHODS[role]:
            found, expected = (getattr(x, name)(texts) for x in (written, alone))
            if not np.array_equal(found, expected):
                difference = float(np.abs(found - expected).max())
                raise RuntimeError(
                    f"{name} of the folder gives other vectors than {side.tower.name} (largest "
                    f"difference {difference:.3g}); nothing was kept, please report this with the "
                    "names of both models"
                )
