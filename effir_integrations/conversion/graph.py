"""An encoder as one graph: ids and mask in, finished vectors out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
)
from torch import nn

from ..encoder.heads import run_head
from ..encoder.prefix import depends_on_length, forget_lengths, steady_length
from ..encoder.tokenization import position_tables, token_limit
from ..model.families import find

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder

_HEADS = (Pooling, Dense, Dropout, LayerNorm, Normalize)
"""Modules that read nothing but what the one before hands on."""


class EncoderGraph(nn.Module):
    """All modules of an encoder on token ids alone, right for padding on either side."""

    def __init__(self, encoder: Encoder) -> None:
        """Take the modules as they are.

        Args:
            encoder: That `check_graph` let pass.
        """
        super().__init__()
        first, *heads = encoder
        self.model: Any = first.model
        self.heads = nn.ModuleList(heads)
        self.padding_id = _padding_id_of_positions(self.model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        prompt_length: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return vectors, (batch, dimension) fp32.

        Args:
            input_ids: (batch, tokens); at padding any id of the vocabulary.
            attention_mask: (batch, tokens), 1 at tokens and 0 at padding.
            prompt_length: (1,), the tokens in front that are not pooled.
        """
        # a batch of one length is numbered as ever, and padding in front moves no token
        numbers = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        if self.padding_id is None:
            ids, given = input_ids, {"position_ids": numbers}
        else:
            ids, given = torch.where(attention_mask > 0, input_ids, self.padding_id), {}
        hidden = self.model(input_ids=ids, attention_mask=attention_mask, **given).last_hidden_state
        pooled = attention_mask
        if prompt_length is not None:
            pooled = pooled * (numbers >= prompt_length)
        # 32 bits: onnxruntime has no ArgMax of 64 on every device
        features = {"token_embeddings": hidden, "attention_mask": pooled.to(torch.int32)}
        for head in self.heads:
            features = run_head(head, features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors


def leaves_prompt_out(encoder: Encoder) -> bool:
    """Say whether pooling does not read the tokens of a prompt."""
    return not all(getattr(module, "include_prompt", True) for module in encoder)


def check_graph(encoder: Encoder, name: str) -> None:
    """Refuse an encoder that is more than a graph over token ids.

    Args:
        encoder: As loaded.
        name: Of the model, for the error.

    Raises:
        ValueError: Names the module or the setting that no graph can hold.
    """
    modules: list[Any] = list(encoder)
    first, heads = modules[0], modules[1:]
    find(first.model.config)
    for module in heads:
        if type(module) not in _HEADS:
            kinds = ", ".join(kind.__name__ for kind in _HEADS)
            raise ValueError(
                f"{name} has the module {type(module).__name__}, which no graph over token ids "
                f"holds; behind the transformer it may have {kinds}"
            )
    if not any(isinstance(module, Pooling) for module in heads):
        raise ValueError(f"{name} has no Pooling module, so it gives no vector of a text")
    _check_texts(first, name)
    _check_pooling(heads, name)
    longest, steady = token_limit(encoder), steady_length(first.model.config)
    if steady < (longest or steady + 1):
        raise ValueError(
            f"the rotary frequencies of {name} go by the longest text of a batch beyond {steady} "
            f"tokens, and a graph holds one set; write max_seq_length {steady} into its "
            "sentence_bert_config.json and convert it again"
        )


def _check_texts(first: Any, name: str) -> None:
    """Refuse what a tokenizer alone does not do to a text."""
    if not first.tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer of {name} has no tokenizer.json, which every engine reads; save the "
            "model with its fast tokenizer"
        )
    if "message" in first.modality_config:
        raise ValueError(
            f"{name} puts every text into a chat template, which is no part of a graph; load it by "
            "effir.load, save it, and convert that folder"
        )
    if first.module_output_name != "token_embeddings":
        raise ValueError(
            f"the transformer of {name} gives {first.module_output_name}, where a graph pools "
            "token_embeddings"
        )
    for setting in ("processing_kwargs", "query_length", "document_length", "query_expansion"):
        if getattr(first, setting, None):
            raise ValueError(
                f"{name} sets {setting} of its Transformer module, which no engine reads; take it "
                "out of sentence_bert_config.json if texts do not need it"
            )


def _check_pooling(heads: list[nn.Module], name: str) -> None:
    for pooling in (module for module in heads if isinstance(module, Pooling)):
        modes = pooling.pooling_mode
        modes = (modes,) if isinstance(modes, str) else modes
        if not pooling.include_prompt and "weightedmean" in modes:
            raise ValueError(
                f"{name} has weightedmean pooling that leaves the prompt out, which a graph does "
                "not hold; other poolings it does"
            )


def _padding_id_of_positions(model: Any) -> int | None:
    """Return the id from which a model numbers the tokens that are not it; None if it is told."""
    if not find(model.config).positions_by_padding_id:
        return None
    rows = [table.padding_idx for table in position_tables(model)]
    return next(row for row in rows if row is not None)


@contextmanager
def as_traced(model: Any) -> Iterator[None]:
    """Hold a model in the state in which its graph is taken.

    No keys are kept for a next token, and frequencies do not go by the length, which within the
    limit they do not (`check_graph`).
    """
    rotary = [x for x in model.modules() if depends_on_length(model) and hasattr(x, "rope_type")]
    kinds = [module.rope_type for module in rotary]
    use_cache = getattr(model.config, "use_cache", None)
    if rotary:
        forget_lengths(model)
    try:
        for module, kind in zip(rotary, kinds, strict=True):
            fixed = {name: "default" for name in kind} if isinstance(kind, dict) else "default"
            module.rope_type = fixed
        if use_cache is not None:
            model.config.use_cache = False
        with torch.no_grad():
            yield
    finally:
        for module, kind in zip(rotary, kinds, strict=True):
            module.rope_type = kind
        if use_cache is not None:
            model.config.use_cache = use_cache
