"""Say in a store whose documents it holds, and refuse to search or fill that of another model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..encoder.store_record import StoreRecord, record_path

if TYPE_CHECKING:
    from .lazy_encoder import LazyEncoder


class SearchesStore:
    """What adapters have that embed queries."""

    _encoder: LazyEncoder

    def check_store(self, place: str | os.PathLike[str]) -> None:
        """Refuse a store whose documents queries of this model cannot be compared with.

        Those of its own can be searched, and those of the model whose space it is in: of a pair
        the model of documents, of a pruned model the one that it was made of.

        Args:
            place: Folder or file that `claim_store` was given, or a file of `effir encode`.

        Raises:
            FileNotFoundError: Nothing there says which model filled it.
            ValueError: Another model did, or vectors have another length.
        """
        check_store(self._encoder, Path(place))


class FillsStore:
    """What adapters have that embed documents."""

    _encoder: LazyEncoder
    document_prompt: str | None

    def claim_store(self, place: str | os.PathLike[str]) -> None:
        """Say in a store that its documents are of this model; refuse one that another filled.

        Call it before documents are added, whenever some are.

        Args:
            place: Folder in which the library keeps the store, which gets a file `effir.json`; or
                its file, beside which one is written whose name ends in `.effir`.

        Raises:
            ValueError: It holds documents of another model, or that were encoded otherwise.
        """
        claim_store(self._encoder, Path(place), self.document_prompt)


def check_store(encoder: LazyEncoder, place: Path) -> None:
    """As of `SearchesStore`."""
    record = StoreRecord.load(place)
    if record is None:
        raise FileNotFoundError(
            f"{record_path(place)} is not there, so nothing says which model filled {place}; "
            "effir_integrations.check_space can tell by some of its vectors"
        )
    if record.fingerprint not in encoder.searches:
        raise ValueError(
            f"{place} holds documents encoded by {record.model}, and {encoder.name} is not known "
            f"to be of its space; search with {record.model} or a query encoder that effir pair "
            "made for it, or encode the documents again"
        )
    if record.dimension != encoder.dimension:
        raise ValueError(
            f"{place} holds vectors of {record.dimension} dimensions of {record.model}, and "
            f"{encoder.name} gives {encoder.dimension} here; give the truncate_dim it was filled "
            "with, or encode the documents again"
        )


def claim_store(encoder: LazyEncoder, place: Path, prompt: str | None) -> None:
    """As of `FillsStore`; `prompt` is put in front of documents instead of the model's own."""
    record, maker = StoreRecord.load(place), encoder.documents
    if record is not None and record.fingerprint != maker.files:
        raise ValueError(
            f"{place} holds documents encoded by {record.model}, and those that {encoder.name} "
            f"encodes would not fit among them; add documents with {record.model} or a pair that "
            "encodes them by it (effir pair), or fill a new store"
        )
    now = StoreRecord(
        model=maker.name,
        fingerprint=maker.files,
        dimension=encoder.dimension,
        settings={"prompt": encoder.document_prompt(prompt), "max_length": encoder.limit},
    )
    if record is None:
        now.save(place)
        return
    facts = [{"truncate_dim": x.dimension, **x.settings} for x in (record, now)]
    for name in facts[1]:
        before, after = (x.get(name) for x in facts)
        if before != after:
            raise ValueError(
                f"{place} holds documents encoded with {name} {before!r}, not {after!r}; give the "
                "same, or fill a new store"
            )
