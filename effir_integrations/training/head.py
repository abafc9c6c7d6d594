"""A Dense module from an encoder's vectors to those of a teacher, by least squares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..encoder.encoder import Encoder
from ..encoder.linear_map import bare_modules, ridge, with_map
from ..encoder.tokenization import cut_to

logger = logging.getLogger(__name__)


def with_head(
    encoder: Any,
    teacher: Any,
    ours: Sequence[str],
    theirs: Sequence[str],
    *,
    max_length: int | None = None,
) -> Encoder:
    """Return the encoder with a Dense behind it that gives the teacher's vectors, almost.

    A normalisation at the encoder's end gives way to one behind the Dense.

    Args:
        encoder: Any `SentenceTransformer`; its modules are used, not copied.
        teacher: Whose vectors are learned.
        ours: Texts as the encoder reads them.
        theirs: The same texts as the teacher does.
        max_length: Tokens that both cut them to. Default: to each one's own limit.
    """
    bare = Encoder(
        modules=bare_modules(encoder),
        prompts=encoder.prompts,
        default_prompt_name=encoder.default_prompt_name,
        similarity_fn_name="cosine",
    )
    states, vectors = (
        model.encode(
            list(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
            prompt="",
            **cut_to(model, max_length),
        )
        .double()
        .cpu()
        for model, texts in ((bare, ours), (teacher, theirs))
    )
    found = ridge(states, nn.functional.normalize(vectors, dim=-1))
    logger.info("head: cosine to the teacher %.4f on texts that it was not fitted to", found.cosine)
    return with_map(bare, found.weight, found.bias)
