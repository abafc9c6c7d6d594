"""Make a tokenizer fit for batches and for last-token pooling, and say where texts are cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.tokenization_utils_base import LARGE_INTEGER

from ..files import read_json, write_json

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, *, append_eos: bool) -> None:
    """Give a tokenizer a pad token, and an EOS that truncation keeps.

    Raises:
        ValueError: There is no EOS token to append or to pad with.
    """
    if tokenizer.eos_token is None and (append_eos or tokenizer.pad_token is None):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path} has no EOS token, which last-token pooling "
            "needs; set eos_token in its tokenizer_config.json, or choose another pooling"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if append_eos and not ends_with_eos(tokenizer):
        _append_eos(tokenizer)


def ends_with_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether a text that is cut at the limit still ends with EOS."""
    ids = tokenizer("text " * 50, truncation=True, max_length=16)["input_ids"]
    return ids[-1] == tokenizer.eos_token_id


def _append_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())
    eos = {"token": tokenizer.eos_token, "id": tokenizer.eos_token_id}
    content["post_processor"] = _with_eos(content.get("post_processor"), eos)
    backend.post_processor = Tokenizer.from_str(json.dumps(content)).post_processor
    if not ends_with_eos(tokenizer):
        raise RuntimeError(
            f"the tokenizer {type(tokenizer).__name__} of {tokenizer.name_or_path} does not keep "
            "an appended EOS; save it with an EOS in its post-processor first"
        )


def _with_eos(processor: dict[str, Any] | None, eos: dict[str, Any]) -> dict[str, Any]:
    """Return a post-processor that also ends each text with EOS; templates do not chain."""
    if processor is not None and processor["type"] == "TemplateProcessing":
        return _template_with_eos(processor, eos)
    empty = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    }
    if processor is None:
        return _template_with_eos(empty, eos)
    parts = processor["processors"] if processor["type"] == "Sequence" else [processor]
    if not any(part["type"] == "TemplateProcessing" for part in parts):
        parts = [*parts, empty]
    made = [_with_eos(x, eos) if x["type"] == "TemplateProcessing" else x for x in parts]
    return {"type": "Sequence", "processors": made}


def _template_with_eos(template: dict[str, Any], eos: dict[str, Any]) -> dict[str, Any]:
    token = {"id": eos["token"], "ids": [eos["id"]], "tokens": [eos["token"]]}
    piece = {"SpecialToken": {"id": eos["token"], "type_id": 0}}
    return {
        **template,
        "single": [*template["single"], piece],
        "pair": [*template["pair"], piece],
        "special_tokens": {**template["special_tokens"], eos["token"]: token},
    }


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that every reader takes `tokenizer.json` as it stands.

    A class of a model family may rebuild the post-processor from its own defaults and lose the EOS,
    and Transformers 4 does not know the name that version 5 writes; this class reads the file.
    """
    tokenizer.save_pretrained(folder)
    if not tokenizer.is_fast:
        return
    path = folder / "tokenizer_config.json"
    content = read_json(path, "what a tokenizer saves")
    content.pop("backend", None)
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    content["model_input_names"] = list(tokenizer.model_input_names)
    write_json(path, content)


def texts_without_tokens(encoder: SentenceTransformer, texts: Sequence[Any]) -> set[int]:
    """Return the places of texts that a tokenizer which adds nothing makes no token of."""
    from transformers import PreTrainedTokenizerBase

    tokenizer: Any = encoder.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or tokenizer.num_special_tokens_to_add():
        return set()
    return {
        place
        for place, text in enumerate(texts)
        if isinstance(text, str) and not tokenizer(text)["input_ids"]
    }


def token_limit(encoder: SentenceTransformer, max_length: int | None = None) -> int | None:
    """Return the tokens that a text is cut to, or None if there is no limit.

    Args:
        encoder: Its own limit is the most, and where it is too high for a table of positions, as
            in folders whose tokenizer states none, the table is.
        max_length: What was asked for, in tokens; None asks for the encoder's own limit.

    Raises:
        ValueError: `max_length` is below 1, or more than the model has positions for.
    """
    towers: Any = getattr(encoder, "towers", None)
    if towers is not None:  # each of a pair cuts to its own limit, if that is less
        limits_of_both = [token_limit(tower, max_length) for tower in towers()]
        return max(limits_of_both, key=lambda limit: limit or LARGE_INTEGER)
    model = encoder.transformers_model
    table = None if model is None else table_positions(model)
    limits = [limit for limit in (_own_limit(encoder), table, max_length) if limit is not None]
    if max_length is not None:
        check_length(max_length, table or _stated_positions(encoder))
    return min(limits, default=None)


def cut_to(encoder: SentenceTransformer, max_length: int | None) -> dict[str, Any]:
    """Return what makes one call of `encode` or `preprocess` cut texts to `max_length` tokens.

    An argument of the call, in the words of the stock class: a limit that is set on the encoder is
    that of all threads.

    Args:
        encoder: Any `SentenceTransformer`.
        max_length: At most the encoder's own limit; None leaves that.

    Raises:
        ValueError: `max_length` is below 1, or more than the model has positions for.
    """
    if max_length is None:
        return {}
    return {"processing_kwargs": {"text": {"max_length": token_limit(encoder, max_length)}}}


def table_positions(model: PreTrainedModel) -> int | None:
    """Return for how many tokens of a text there are rows in the model's table of positions.

    None without such a table, where positions are computed. A table with a row for padding begins
    behind it: RoBERTa and its relatives number tokens from there.
    """
    tables = position_tables(model)
    first = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]
    return tables[0].num_embeddings - max(first) if tables else None


def position_tables(model: PreTrainedModel) -> list[nn.Embedding]:
    """Return a model's tables of positions: one, or none where positions are computed."""
    rows: Any = getattr(model.config, "max_position_embeddings", None)
    return [
        table
        for table in model.modules()
        if isinstance(table, nn.Embedding)
        and table.num_embeddings == rows
        and table is not model.get_input_embeddings()
    ]


def _own_limit(encoder: SentenceTransformer) -> int | None:
    limit = encoder.max_seq_length
    # models without positions, such as static embeddings, state an infinite one
    return limit if isinstance(limit, int) and limit < LARGE_INTEGER else None


def _stated_positions(encoder: SentenceTransformer) -> int | None:
    """Return the positions of a model that computes them; its folder may allow more."""
    config = getattr(encoder.transformers_model, "config", None)
    stated = getattr(config, "max_position_embeddings", None)
    return max(stated, _own_limit(encoder) or 0) if stated else None


def check_length(max_length: int, positions: int | None = None) -> None:
    """Refuse a length that no model takes, or this one does not.

    Raises:
        ValueError: It is below 1, or more than there are positions.
    """
    if max_length < 1:
        raise ValueError(f"max_length={max_length} must be at least 1 token")
    if positions is not None and max_length > positions:
        raise ValueError(
            f"max_length={max_length}, but the model has positions for {positions} tokens; choose "
            "at most that"
        )
