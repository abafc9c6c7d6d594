"""What engines read beside a graph: tokenizer, limit, pooling, prompts, config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from ..encoder.tokenization import save_tokenizer, token_limit
from ..files import read_json, write_json

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder

_OLD_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_SHORT_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}
"""Keys of config.json that TEI asks for -> the other names under which it takes them."""
_MODULES = "sentence_transformers.models"
"""Where every version of Sentence Transformers, and what is built on an old one, finds modules."""


def write_engine_files(encoder: Encoder, folder: Path) -> None:
    """Write all but the graph itself.

    Raises:
        ValueError: The model states no limit of tokens, without which engines cut nothing.
    """
    limit = text_limit(encoder)
    _write_tokenizer(encoder, folder, limit)
    _write_config(encoder, folder)
    _write_modules(encoder, folder)
    write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False}
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {name: text or "" for name, text in encoder.prompts.items()},
            "default_prompt_name": encoder.default_prompt_name,
            "similarity_fn_name": encoder.similarity_fn_name,
        },
    )


def text_limit(encoder: Encoder) -> int:
    """Return the tokens that a text is cut to.

    Raises:
        ValueError: The model states none.
    """
    model: Any = encoder.transformers_model
    limit = token_limit(encoder) or getattr(model.config, "max_position_embeddings", None)
    if not limit:
        raise ValueError(
            "the model states no limit of tokens, which engines need; write max_seq_length into "
            "its sentence_bert_config.json"
        )
    return int(limit)


def padding_token(tokenizer: Any) -> str:
    """Return the token that fills batches up; the mask says which these are."""
    token: str = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(0)
    return token


def _write_tokenizer(encoder: Encoder, folder: Path, limit: int) -> None:
    """Write the tokenizer without a state of its last call, and with the model's limit."""
    tokenizer: Any = encoder.tokenizer
    save_tokenizer(tokenizer, folder)
    path = folder / "tokenizer.json"
    content = read_json(path, "what a tokenizer saves")
    content["truncation"] = content["padding"] = None
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    path = folder / "tokenizer_config.json"
    settings = {
        "model_max_length": limit,
        "pad_token": padding_token(tokenizer),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }
    write_json(path, {**read_json(path, "what a tokenizer saves"), **settings})
    write_json(folder / "special_tokens_map.json", _special_tokens(tokenizer))


def _special_tokens(tokenizer: Any) -> dict[str, Any]:
    """Return the special tokens by their names, as Transformers 4 wrote them down."""
    known = {str(token): token for token in tokenizer.added_tokens_decoder.values()}

    def described(text: str) -> dict[str, Any]:
        flags = ("lstrip", "normalized", "rstrip", "single_word")
        return {"content": text, **{flag: getattr(known.get(text), flag, False) for flag in flags}}

    names = {**tokenizer.special_tokens_map, "pad_token": padding_token(tokenizer)}
    return {
        name: list(map(described, text)) if isinstance(text, list) else described(text)
        for name, text in names.items()
    }


def _write_config(encoder: Encoder, folder: Path) -> None:
    """Write the model's config for engines that ask it for sizes; no code lies beside it."""
    model, tokenizer = encoder.transformers_model, encoder.tokenizer
    config: Any = model.config  # type: ignore[union-attr]
    content = json.loads(config.to_json_string(use_diff=False))
    for key in ("auto_map", "_name_or_path"):
        content.pop(key, None)
    for key, short in _SHORT_NAMES.items():
        if key not in content and short not in content:
            content[key] = getattr(config, key)
    eos = content.get("eos_token_id")
    content.update(
        architectures=[type(model).__name__],
        pad_token_id=tokenizer.convert_tokens_to_ids(padding_token(tokenizer)),
        eos_token_id=eos[0] if isinstance(eos, list) and eos else eos,
        dtype="float32",
    )
    write_json(folder / "config.json", content)


def _write_modules(encoder: Encoder, folder: Path) -> None:
    """Write pooling and normalisation in old words and new; other heads are in the graph alone."""
    (pooling, *_) = [module for module in encoder if isinstance(module, Pooling)]
    modes = (
        (pooling.pooling_mode,) if isinstance(pooling.pooling_mode, str) else pooling.pooling_mode
    )
    listed = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if isinstance(list(encoder)[-1], Normalize):
        listed.append(("2_Normalize", "Normalize"))
    write_json(
        folder / "modules.json",
        [
            {"idx": place, "name": str(place), "path": path, "type": f"{_MODULES}.{kind}"}
            for place, (path, kind) in enumerate(listed)
        ],
    )
    for path, _ in listed[1:]:
        (folder / path).mkdir()
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": pooling.embedding_dimension,
            "pooling_mode": modes[0] if len(modes) == 1 else list(modes),
            "include_prompt": pooling.include_prompt,
            **{key: mode in modes for mode, key in _OLD_KEYS.items()},
        },
    )
