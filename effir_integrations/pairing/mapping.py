"""Solve for a linear map from a query encoder's vectors to the document encoder's, or leave it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.calibration import SAMPLE, Calibration, load_calibration
from ..data.sentences import sentences
from ..encoder.encoder import Encoder
from ..encoder.linear_map import procrustes, ridge, with_map
from ..encoder.search_vectors import search_vectors

MAPS = ("ridge", "procrustes")
MAP_TEXTS = 4_000
"""At most so many texts of a file or a corpus are drawn."""
FEWEST_TEXTS = 100
"""A fifth of fewer would say too little of whether a map helps."""
_HELD_OUT = 5
"""Every so manieth text is held out."""


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """What a linear map from the queries' vectors to the documents' does, and whether it stays."""

    method: str
    """ridge or procrustes."""
    kept: bool
    """Whether it stands behind the query encoder."""
    before: float | None
    """Mean cosine on the held-out texts without it; None between unlike dimensions."""
    after: float
    """The same with it, fitted to the other texts; the one that is kept is fitted to all."""
    held_out: int
    """How many texts these are."""
    texts: int
    """How many there are in all, each once."""
    source: str
    """Where they came from."""
    sha256: str
    """Over the texts as they were given."""
    penalty: float | None
    """Of the ridge, as a share of the vectors' mean variance."""

    @property
    def cosine(self) -> float:
        """The mean cosine on the held-out texts, of what is written."""
        return self.after if self.kept or self.before is None else self.before

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)

    def record(self) -> dict[str, Any]:
        """Return the entry of the map in the history of the query encoder."""
        measured = {"before": self.before, "after": self.after, "held_out": self.held_out}
        read = {"source": self.source, "texts": self.texts, "sha256": self.sha256}
        config = {"method": self.method, "penalty": self.penalty}
        return {"stage": "map", "config": config, "calibration": read, **measured}

    def __str__(self) -> str:
        """Say in a sentence what the map does."""
        read = f"on {self.held_out:,} of {self.texts:,} texts ({self.source})"
        if self.before is None:
            return (
                f"A linear map ({self.method}) leads from one dimension to the other: {read} that "
                f"were held out it gives a mean cosine of {self.after:.4f}."
            )
        change = f"the mean cosine from {self.before:.4f} to {self.after:.4f}"
        if self.kept:
            return (
                f"A linear map ({self.method}) stands behind the query encoder: {read} that were "
                f"held out it takes {change}."
            )
        return (
            f"No linear map stands behind the query encoder: {read} that were held out, "
            f"{self.method} would take {change}."
        )


def load_map_texts(texts: Calibration | str | Path | Sequence[str] | None) -> Calibration:
    """Read texts for a map; of a file, a corpus or a data set at most `MAP_TEXTS`.

    Of the texts that come with the package each sentence is one: 256 are few, and queries short.

    Raises:
        FileNotFoundError: As of `load_calibration`.
        ValueError: As of `load_calibration`.
    """
    if isinstance(texts, Calibration):
        return texts
    if texts is None or texts == SAMPLE:
        shipped = load_calibration(SAMPLE)
        parts = tuple(x for text in shipped.texts for x in sentences(text))
        return Calibration(texts=parts, source="sentences of the sample")
    return load_calibration(texts, limit=MAP_TEXTS if isinstance(texts, str | Path) else None)


def check_map(method: str, texts: Calibration, dimension: int | None) -> None:
    """Refuse an unknown map, or too few texts for one.

    Args:
        method: One of `MAPS`.
        texts: That it would be fitted to.
        dimension: Of the query encoder's vectors, where it is known.

    Raises:
        ValueError: The map is not known, or has too few texts.
    """
    if method not in MAPS:
        raise ValueError(f"map={method!r} is not known; choose {', '.join(MAPS)}")
    there, needed = len(set(texts.texts)), FEWEST_TEXTS
    if method == "procrustes" and dimension is not None:
        # what is fitted to must span the space, without those that are held out
        needed = max(needed, math.ceil(dimension * _HELD_OUT / (_HELD_OUT - 1)))
    if there < needed:
        other = "" if method == "ridge" else ", or take map='ridge'"
        raise ValueError(
            f"{texts.source} holds {there:,} different texts, and {method} from "
            f"{dimension or 'these'} dimensions needs {needed:,} or more; give texts{other}"
        )


def fit_map(
    query: Encoder, document: Encoder, method: str, texts: Calibration, *, needed: bool
) -> tuple[Encoder, Mapped]:
    """Return the query encoder with a map behind it that leads to the document encoder's vectors.

    Both read the texts as queries. The map is fitted to four fifths and judged on the others; where
    it brings the vectors closer there, it is fitted again to all, and stays.

    Args:
        query: The encoder of queries; its modules are used, not copied.
        document: The encoder of documents.
        method: One of `MAPS`.
        texts: As of `load_map_texts`.
        needed: Whether the two cannot be compared without it: it stays in any case.

    Returns:
        The query encoder, as it was where the map does not help; and what was measured.

    Raises:
        ValueError: As of `check_map`.
    """
    different = list(dict.fromkeys(texts.texts))
    states, vectors = (_unit_vectors(model, different) for model in (query, document))
    check_map(method, texts, states.shape[1])
    held = torch.arange(len(different)) % _HELD_OUT == _HELD_OUT - 1
    weight, _ = _solve(method, states[~held], vectors[~held])
    before = None
    if states.shape == vectors.shape:
        before = _mean_cosine(states[held], vectors[held])
    after = _mean_cosine(states[held] @ weight, vectors[held])
    kept = needed or before is None or after > before
    weight, penalty = _solve(method, states, vectors) if kept else (weight, None)
    measured = Mapped(
        method=method,
        kept=kept,
        before=before,
        after=after,
        held_out=int(held.sum()),
        texts=len(different),
        source=texts.source,
        sha256=texts.sha256,
        penalty=penalty,
    )
    return with_map(query, weight) if kept else query, measured


def _unit_vectors(model: Encoder, texts: Sequence[str]) -> torch.Tensor:
    found = torch.from_numpy(search_vectors(model, texts, kind="query")).double()
    return nn.functional.normalize(found, dim=-1)


def _solve(
    method: str, states: torch.Tensor, vectors: torch.Tensor
) -> tuple[torch.Tensor, float | None]:
    """Return the map, (hidden, dimension), and the penalty that was chosen for it."""
    if method == "procrustes":
        return procrustes(states, vectors), None
    found = ridge(states, vectors, bias=False)
    return found.weight, found.penalty


def _mean_cosine(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return nn.functional.cosine_similarity(given, wanted).mean().item()
