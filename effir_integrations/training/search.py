"""Search a pool for the passages that an encoder ranks high."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from effir_integrations.extras import import_extra
from effir_integrations.fields import check_fields
from effir_integrations.training.pool import Pool

from ..progress import progress_bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SIMILARITIES = 2**28
"""How many similarities are held at once: 1 GiB of float32."""
_TEXTS = 1024
"""Texts encoded between two steps of the bar; within them they are sorted by length."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How to choose among the candidates; each field is that argument of `mine`."""

    negatives: int
    range_min: int
    range_max: int
    relative_margin: float | None
    absolute_margin: float | None
    batch_size: int

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (
            ("negatives", 1),
            ("range_min", 0),
            ("range_max", 1),
            ("batch_size", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise ValueError(
                    f"{name}={value!r} is not allowed; give an integer from {least} up."
                )
        if self.range_max - self.range_min < self.negatives:
            raise ValueError(
                f"range_max={self.range_max} leaves {self.range_max - self.range_min} candidates "
                f"after range_min={self.range_min}, but negatives={self.negatives}; raise "
                "--range-max or lower one of the others."
            )
        for name in ("relative_margin", "absolute_margin"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(
                    f"{name}={value!r} is not allowed; give a number from 0 up, or None."
                )


class _Narrated:
    """An encoder whose bars are ours: those of the search cannot be turned off."""

    def __init__(self, encoder: SentenceTransformer, show_progress: bool, file: TextIO) -> None:
        self._encoder, self._show_progress, self._file = encoder, show_progress, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_document(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Return embeddings (texts, dimensions)."""
        return self._encode(self._encoder.encode_document, texts, "Encoding passages", options)

    def encode_query(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Return embeddings (texts, dimensions)."""
        return self._encode(self._encoder.encode_query, texts, "Encoding queries", options)

    def _encode(
        self,
        encode: Callable[..., Any],
        texts: Sequence[str],
        description: str,
        options: Mapping[str, Any],
    ) -> np.ndarray:
        bar = progress_bar(
            total=len(texts),
            desc=description,
            unit="text",
            file=self._file,
            shown=self._show_progress,
        )
        blocks = []
        with bar:
            for start in range(0, len(texts), _TEXTS):
                block = texts[start : start + _TEXTS]
                vectors = encode(block, **{**options, "show_progress_bar": False})
                if bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
                    raise ValueError(
                        f"the vector of {block[bad[0]][:60]!r} is not finite; check the model's "
                        "weights, or load it in fp32"
                    )
                blocks.append(vectors)
                bar.update(len(block))
        return np.concatenate(blocks)


def search_pool(
    encoder: SentenceTransformer,
    pool: Pool,
    anchors: Mapping[tuple[str | None, str], str],
    config: SearchConfig,
    prompts: Mapping[str, Any],
    *,
    use_faiss: bool = False,
    show_progress: bool = False,
) -> dict[str, list[str]]:
    """Return the negatives of each anchor, best first; an anchor with none is not there.

    Args:
        encoder: Ranks the passages.
        pool: Queries with positives, and passages.
        anchors: Key of a query in the pool -> the text to encode for it.
        config: How to choose among the candidates.
        prompts: The four prompt arguments of `sentence_transformers.util.mine_hard_negatives`.
        use_faiss: Search with FAISS.
        show_progress: Show bars.

    Raises:
        ImportError: If the package `datasets` is not installed.
    """
    from sentence_transformers.util import mine_hard_negatives

    datasets = import_extra("datasets", "train")
    pairs = [(anchors[key], text) for key, texts in pool.positives.items() for text in texts]
    queries, positives = zip(*pairs, strict=True)
    narrated: Any = _Narrated(encoder, show_progress, sys.stderr)
    with contextlib.redirect_stderr(io.StringIO()):
        mined = mine_hard_negatives(
            datasets.Dataset.from_dict({"query": list(queries), "passages": list(positives)}),
            narrated,
            corpus=list(pool.passages),
            range_min=config.range_min,
            range_max=config.range_max,
            relative_margin=config.relative_margin,
            absolute_margin=config.absolute_margin,
            num_negatives=config.negatives,
            output_format="labeled-list",
            batch_size=config.batch_size,
            faiss_batch_size=max(1, min(16_384, _SIMILARITIES // len(pool.passages))),
            use_faiss=use_faiss,
            verbose=False,
            **prompts,
        )
    found: dict[str, list[str]] = {}
    for row in mined:
        # One row for each positive, all with the same negatives behind it.
        found.setdefault(row["query"], row["passages"][1:])
    return found
