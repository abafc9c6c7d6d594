"""Take tokens out of an encoder in memory, and see that what stays is as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from sentence_transformers.util import batch_to_device

from ..encoder.encoder import transformer_model
from ..model.token_rows import take_rows
from .counts import ids_of
from .tokenizer_file import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..encoder.encoder import Encoder

_CHECKED = 16
"""Texts whose vectors are compared before and after."""
_SPLIT = 500
"""Texts whose tokens are."""


def take(
    encoder: Encoder, vocabulary: Vocabulary, kept: Sequence[int], texts: Sequence[str]
) -> None:
    """Leave the kept tokens, and compare tokens and vectors before and after.

    Args:
        encoder: Changed.
        vocabulary: Of its tokenizer.
        kept: Ids that stay, ascending.
        texts: What will be encoded.

    Raises:
        RuntimeError: They differ.
    """
    before, after = encoder.tokenizer, vocabulary.cut(kept)
    whole = _whole_texts(before, after, kept, [*encoder.prompts.values(), *texts])
    expected = _vectors(encoder, whole)
    take_rows(transformer_model(encoder), torch.tensor(list(kept)))
    limit, transformer = encoder.max_seq_length, cast("Any", encoder[0])
    transformer.processor = after
    encoder.max_seq_length = limit
    if not torch.equal(expected, _vectors(encoder, whole)):
        raise RuntimeError(
            "texts all of whose tokens stay get other vectors without the rest of the vocabulary; "
            "nothing was written, please report this with the model's name"
        )


def _whole_texts(
    before: PreTrainedTokenizerBase,
    after: PreTrainedTokenizerBase,
    kept: Sequence[int],
    texts: Sequence[str | None],
) -> list[str]:
    """Return some texts all of whose tokens stay, after a look that they are split as before.

    Raises:
        RuntimeError: One is not.
    """
    new_ids, found = {old: new for new, old in enumerate(kept)}, []
    some = [text for text in texts if text and text.strip()][:_SPLIT]
    for text, ids, ours in zip(some, ids_of(before, some), ids_of(after, some), strict=True):
        if not new_ids.keys() >= set(ids):
            continue
        if ours != [new_ids[token] for token in ids]:
            raise RuntimeError(
                f"the trimmed tokenizer splits {text!r:.60} in another way, although all of its "
                "tokens stay; nothing was written, please report this with the model's name"
            )
        found.append(text)
    return found[:_CHECKED]


def _vectors(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    """Return (texts, dimension) by one plain forward pass."""
    if not texts:
        return torch.empty(0)
    with torch.inference_mode():
        features = batch_to_device(encoder.preprocess(texts), encoder.device)
        vectors: torch.Tensor = encoder(features)["sentence_embedding"]
    return vectors.float()
