"""What lies beside the weights of an encoder: tokenizer, pooling, prompts, limits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from ..files import inside, read_json, write_json
from ..model.config_file import read_modules
from ..model.families import is_causal
from ..model.shards import check_file_finite
from .inference import TEXT_ONLY
from .tokenization import prepare_tokenizer, save_tokenizer, table_positions


def write_sidecars(source: Path, weights: Path, out: Path) -> None:
    """Write what makes a checkpoint a Sentence Transformers folder, but for its history and card.

    Args:
        source: Folder of a model, whose files are copied; for a bare checkpoint they are made, as
            `load` would make them.
        weights: Where in it the checkpoint lies.
        out: The folder of the new checkpoint.

    Raises:
        ValueError: A file of the source lies outside of it, or holds a weight that is NaN.
    """
    if (source / "modules.json").is_file():
        _copy_sidecars(source, weights, out)
    else:
        _make_sidecars(source, out)


def card_of(source: Path) -> str | None:
    """Return the card of the model in a folder, if it has one."""
    card = source / "README.md"
    return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None


_COPIED = ("sentence_bert_config.json", "config_sentence_transformers.json")


def _copy_sidecars(source: Path, weights: Path, out: Path) -> None:
    """Copy tokenizer, prompts and later modules; the transformer goes to the root."""
    from transformers import AutoTokenizer

    for name in _COPIED:
        for folder in (weights, source):
            if (folder / name).is_file():
                shutil.copyfile(inside(folder, name), out / name)
    modules = read_modules(source)
    modules[0]["path"] = ""
    for module in modules[1:]:
        if module["path"]:
            folder = inside(source, module["path"])
            for path in folder.rglob("*"):
                inside(source, path.relative_to(source))
                if path.suffix == ".safetensors":
                    check_file_finite(path)
            shutil.copytree(folder, out / module["path"])
    write_json(out / "modules.json", modules)
    _write_limit(AutoTokenizer.from_pretrained(weights), _table_positions(weights), out)


def _table_positions(weights: Path) -> int | None:
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        return table_positions(AutoModel.from_config(AutoConfig.from_pretrained(weights)))


def _write_limit(tokenizer: Any, positions: int | None, out: Path) -> None:
    """Save a tokenizer, and the limit that goes before its own, with no more than `positions`."""
    if positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    save_tokenizer(tokenizer, out)
    path = out / _COPIED[0]
    settings = read_json(path, "settings of the Transformer module") if path.is_file() else {}
    stated = settings.get("max_seq_length")
    if positions is not None and stated is not None and stated > positions:
        write_json(path, {**settings, "max_seq_length": positions})


def _make_sidecars(source: Path, out: Path) -> None:
    """Write what makes a bare checkpoint a Sentence Transformers folder, as `load` would."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(source)
    pooling = "lasttoken" if is_causal(config) else "mean"
    tokenizer = AutoTokenizer.from_pretrained(source)
    prepare_tokenizer(tokenizer, append_eos=pooling == "lasttoken")
    positions = _table_positions(source) or getattr(config, "max_position_embeddings", None)
    _write_limit(tokenizer, positions, out)
    modules = [("", f"{Transformer.__module__}.{Transformer.__name__}")]
    stock = (Pooling(config.hidden_size, pooling_mode=pooling), Normalize())
    for index, module in enumerate(stock, start=1):
        name = f"{index}_{type(module).__name__}"
        (out / name).mkdir()
        module.save(str(out / name))
        modules.append((name, f"{type(module).__module__}.{type(module).__name__}"))
    listing = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(modules)
    ]
    write_json(out / "modules.json", listing)
    write_json(
        out / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": TEXT_ONLY,
            "module_output_name": "token_embeddings",
        },
    )
    write_json(
        out / "config_sentence_transformers.json",
        {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "prompts": {}},
    )
