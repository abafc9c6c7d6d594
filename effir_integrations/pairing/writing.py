"""Write two encoders as one folder, and compare what loads from it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from ..encoder.encoder import Encoder
from ..encoder.fingerprint import encoder_fingerprint
from ..encoder.folder import PROBES, save_into, saved_bytes
from ..encoder.history import in_space
from ..encoder.model_files import identify_files
from ..encoder.pair import copy_code
from ..encoder.space_record import Space
from ..encoder.tokenization import save_tokenizer, texts_without_tokens
from ..files import new_folder, write_json
from ..model.modeling import HISTORY_FILE
from ..model.plan import versions
from .card import pair_card
from .mapping import Mapped
from .towers import Tower, pair_prompts

ROLES = ("query", "document")
_METHODS = {"query": ("encode_query",), "document": ("encode_document", "encode")}
"""Role -> what runs its tower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One encoder, loaded, and what is written about it."""

    encoder: Encoder
    tower: Tower
    history: dict[str, Any]
    documents: Space
    """The model that gives documents its vectors: itself, or the one that it is a copy of."""
    added: int = 0
    """Parameters that were put behind it."""

    @property
    def parameters(self) -> int:
        """How many it has, without an LM head."""
        return int(self.history["parameters"]) + self.added

    def stock(self) -> SentenceTransformer:
        """Return the same modules in the stock class."""
        return SentenceTransformer(
            modules=_modules(self.encoder),
            prompts=self.tower.prompts,
            default_prompt_name=self.tower.default_prompt_name,
            device="cpu",
        )


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """How near the vectors are that two encoders give of the same queries."""

    cosine: float
    """Mean one."""
    texts: int
    """How many queries these were."""
    map: Mapped | None = None
    """Where one was asked for."""

    def record(self) -> dict[str, Any]:
        """Return what the history of a pair says of it."""
        measured = {"cosine": self.cosine, "texts": self.texts}
        return measured if self.map is None else {**measured, "map": self.map.to_json()}


def same_base(query: Side, document: Side) -> bool:
    """Say whether both record the same base, or one is the base of the other."""
    return bool(query.history["fingerprint"] == document.history["fingerprint"])


def _modules(encoder: Any) -> list[Any]:
    return list(encoder)


def write_pair(
    query: Side, document: Side, places: list[Path], nearness: Nearness, *, force: bool
) -> None:
    """Write the pair, and each encoder alone where there are places for them.

    Args:
        query: The encoder of queries.
        document: The encoder of documents.
        places: Folder of the pair, and those of each alone.
        nearness: As it was measured.
        force: Replace what is there.

    Raises:
        RuntimeError: What was written gives other vectors; nothing is left behind.
    """
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
        _write_both(query, document, partial, nearness)
        _check_written(query, document, partial)


def _write_both(query: Side, document: Side, folder: Path, nearness: Nearness) -> None:
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
    measured = {"same_base": same_base(query, document), **nearness.record()}
    config = {} if nearness.map is None else {"map": nearness.map.method}
    record = {"stage": "pair", "config": config, **measured}
    history = {**parts, "made_by": [record], "versions": versions()}
    write_json(folder / HISTORY_FILE, in_space(history, document.documents))
    card = pair_card(
        query.tower,
        document.tower,
        parameters=(query.parameters, document.parameters),
        cosine=nearness.cosine,
        texts=nearness.texts,
        mapped="" if nearness.map is None else f" {nearness.map}",
        own_class=own_class,
        base_card=document.encoder._model_card_text,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _check_written(query: Side, document: Side, folder: Path) -> None:
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
