"""Compare what a converted folder gives with the encoder that it was made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.calibration import load_calibration
from ..data.text import clean_text
from ..encoder.folder import PROBES
from ..encoder.tokenization import token_limit

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder
    from ..onnx.encoder import GraphEncoder

_SENTENCES = 24
_BATCH = 8


def least_cosine_to(encoder: Encoder, converted: GraphEncoder, least: float, dtype: str) -> float:
    """Return the smallest cosine of a vector to the one that the encoder gives of the same text.

    Texts of many lengths, alone and in batches padded on either side, with a prompt and without.

    Args:
        encoder: What was converted.
        converted: The same in a runtime.
        least: The smallest cosine that is rounding.
        dtype: For the error.

    Raises:
        RuntimeError: Token ids differ, or a cosine is smaller.
    """
    texts = [*PROBES, *load_calibration(limit=_SENTENCES).texts]
    prompts = ["", *filter(None, encoder.prompts.values())][:2]
    cosines = []
    for prompt in prompts:
        ids = _same_ids(encoder, converted, [prompt + text for text in texts])
        expected = encoder.encode(texts, prompt=prompt)
        cosines.append(_cosines(expected, converted.encode(texts, prompt=prompt)))
        if not prompt:
            cosines += _padded_cosines(converted, ids, expected)
    found = float(np.concatenate(cosines).min())
    if not found >= least:
        raise RuntimeError(
            f"the converted {dtype} model gives other vectors than the model it was made of "
            f"(cosine down to {found:.6f}, at least {least} is rounding); nothing was written, "
            "choose a wider --dtype, or report this with the model's name"
        )
    return math.floor(found * 1e6) / 1e6  # shown with six digits, and never more than it is


def _same_ids(encoder: Encoder, converted: GraphEncoder, texts: list[str]) -> list[list[int]]:
    tokenizer: Any = encoder.tokenizer
    limit = token_limit(encoder)
    cut = {"truncation": True, "max_length": limit} if limit else {}
    expected = tokenizer([clean_text(text) for text in texts], **cut)["input_ids"]
    found = converted.token_ids(texts)
    for text, ours, theirs in zip(texts, found, expected, strict=True):
        if ours != list(theirs) and (limit or len(theirs) <= converted.max_length):
            raise RuntimeError(
                f"the converted tokenizer makes other tokens of {text!r:.60} ({ours[:8]}, not "
                f"{list(theirs)[:8]}); nothing was written, please report this with the model's "
                "name"
            )
    return found


def _padded_cosines(
    converted: GraphEncoder, ids: list[list[int]], expected: np.ndarray
) -> list[np.ndarray]:
    """Return the cosines of texts of any length that share batches, padded on either side."""
    heard = [row for row, tokens in enumerate(ids) if tokens]
    found = []
    for start in range(0, len(heard), _BATCH):
        rows = heard[start : start + _BATCH]
        for side in ("right", "left"):
            vectors = converted.embed_ids([ids[row] for row in rows], padding_side=side)
            found.append(_cosines(expected[rows], vectors))
    return found


def _cosines(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows; 1 of zero vectors, as texts without a token have."""
    one, other = expected.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both_zero = ~one.any(axis=1) & ~other.any(axis=1)
    cosines = (one * other).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    result: np.ndarray = np.where(both_zero, 1.0, cosines)
    return result
