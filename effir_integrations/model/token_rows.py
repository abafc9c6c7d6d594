"""The rows of a model's token embeddings, and the token ids that its config names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NAMED_IDS = frozenset(
    f"{name}_token_id"
    for name in "bos eos pad unk cls sep mask decoder_start forced_bos forced_eos".split()
)
"""Settings of a config, or of how to generate, that hold the id of a token, or a list of ids."""
_LIKE_IDS = re.compile(r"token_(id|index)|_tokens$|bad_words")


def check_rows(model: PreTrainedModel, name: str) -> None:
    """Refuse a model in which more depends on token ids than is known here.

    Raises:
        ValueError: Its config holds other token ids, or it has another table of tokens.
    """
    for key, value in model.config.to_dict().items():
        if _LIKE_IDS.search(key) and key not in NAMED_IDS and _ids(value):
            raise ValueError(
                f"the config of {name} has {key}={value!r}, whose ids cannot be put right: only "
                f"{', '.join(sorted(NAMED_IDS))} are known; remove the setting from config.json "
                "if no text needs it"
            )
    table = token_table(model)
    for path, module in model.named_modules():
        alike = isinstance(module, nn.Embedding) and module is not table
        if alike and module.num_embeddings == table.num_embeddings:
            raise ValueError(
                f"{name} has another table of {table.num_embeddings:,} rows, {path}, which may be "
                "of tokens as well; its vocabulary cannot be trimmed"
            )


def token_table(model: PreTrainedModel) -> nn.Embedding:
    """Return the table of token embeddings."""
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise ValueError(
            f"the token embeddings of {model.config.name_or_path} are a {type(table).__name__}, "
            "not a plain table; its vocabulary cannot be trimmed"
        )
    return table


def named_ids(config: PretrainedConfig) -> set[int]:
    """Return the token ids that a config names."""
    values = (getattr(config, name, None) for name in NAMED_IDS)
    return {token for value in values for token in _ids(value)}


def take_rows(model: PreTrainedModel, kept: torch.Tensor) -> None:
    """Leave those rows of a model's token embeddings, and name tokens by their new places.

    Args:
        model: In memory; changed.
        kept: (tokens,) int64, ascending: the rows that stay, by their old ids.

    Raises:
        ValueError: A row is not there.
    """
    table = token_table(model)
    if int(kept.max()) >= table.num_embeddings:
        raise ValueError(
            f"the tokenizer of {model.config.name_or_path} has a token {int(kept.max())}, but the "
            f"model {table.num_embeddings:,} rows; put the tokenizer of this model into its folder"
        )
    new_ids = {old: new for new, old in enumerate(kept.tolist())}
    weight = table.weight.detach()[kept.to(table.weight.device)].clone()
    table.weight = nn.Parameter(weight, requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(kept)
    if table.padding_idx is not None:
        table.padding_idx = new_ids[table.padding_idx]
    model.config.vocab_size = len(kept)
    rename_ids(model.config, new_ids)
    if getattr(model, "generation_config", None) is not None:
        rename_ids(model.generation_config, new_ids)


def rename_ids(settings: Any, new_ids: Mapping[int, int]) -> None:
    """Give the token ids in a config their new numbers; ids that never had a row stay."""
    for name in NAMED_IDS:
        value = getattr(settings, name, None)
        if isinstance(value, list | tuple):
            setattr(settings, name, [new_ids.get(token, token) for token in value])
        elif value is not None:
            setattr(settings, name, new_ids.get(value, value))


def _ids(value: Any) -> list[int]:
    """Return the ids that a setting holds."""
    if isinstance(value, list | tuple):
        return [token for part in value for token in _ids(part)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []
