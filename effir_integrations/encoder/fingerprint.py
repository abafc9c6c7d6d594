"""Tell one encoder from another by its weights, its tokenizer and its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from ..model.config_file import _choices

BLOCK = 1 << 22
"""Elements that are summed together, so that no copy is larger; a multiple of eight."""
_PATTERNS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encoder_fingerprint(encoder: Any) -> str:
    """Return a SHA-256 that two encoders share only if they hold the same weights and settings.

    Of each tensor it takes name, shape, dtype and the sums of the bit patterns of its blocks, so
    a model of 7B parameters is read once and never copied. Length limit and prompts are left out.

    Args:
        encoder: A `SentenceTransformer`, quantised or not, on any device but meta.
    """
    digest = hashlib.sha256()
    if hasattr(encoder, "towers"):
        _add(digest, [encoder_fingerprint(tower) for tower in encoder.towers()])
        return digest.hexdigest()
    for module in encoder:
        configured = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
        _add(digest, type(module).__name__, _without_limit(configured))
    config = getattr(getattr(encoder[0], "model", None), "config", None)
    if config is not None:
        _add(digest, _choices(config))
    _add(digest, _tokenizer_content(encoder.tokenizer))
    for name, value in encoder.state_dict().items():
        for part, tensor in _plain_tensors(name.replace("_orig_mod.", ""), value):
            _add(digest, part, list(tensor.shape), str(tensor.dtype), block_sums(tensor))
    return digest.hexdigest()


def block_sums(tensor: torch.Tensor) -> list[int]:
    """Return sums of a tensor's bit patterns, `BLOCK` elements at a time, modulo 2**64.

    Patterns are read eight bytes at once, which is five times as fast as one by one; what is left
    at the end of the last block is summed by itself.
    """
    flat = tensor.detach().reshape(-1).view(_PATTERNS[tensor.element_size()])
    together = 8 // flat.element_size()
    sums = []
    for block in flat.split(BLOCK) if len(flat) else ():
        whole, rest = block.split([len(block) // together * together, len(block) % together])
        # eight bytes can only be read where the memory is aligned to them
        whole = whole.clone() if whole.storage_offset() % together else whole
        sums += [whole.view(torch.int64).sum(), rest.sum(dtype=torch.int64)]
    return torch.stack(sums).tolist() if sums else []


def _plain_tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Take quantised weights apart into tensors whose bits can be read."""
    if not isinstance(value, torch.Tensor):
        # numbers and words have a lasting text; other objects print their address
        text = value if isinstance(value, (str, int, float)) else type(value).__name__
        yield f"{name}={text}", torch.empty(0)
    elif hasattr(value, "__tensor_flatten__"):
        inner, _ = value.__tensor_flatten__()
        for part in inner:
            kind = type(value).__name__
            yield from _plain_tensors(f"{name}.{kind}.{part}", getattr(value, part))
    else:
        yield name, value


def _without_limit(configured: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in configured.items() if key != "max_seq_length"}


def _tokenizer_content(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
        return [type(tokenizer).__name__, vocabulary]
    content = json.loads(backend.to_str())
    # every call of the tokenizer sets these two again
    return {key: x for key, x in content.items() if key not in ("padding", "truncation")}


def _add(digest: Any, *content: Any) -> None:
    text = json.dumps(content, sort_keys=True, default=str)
    digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
