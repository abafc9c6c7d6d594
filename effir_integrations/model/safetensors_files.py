"""Read the shape of a safetensors checkpoint from its headers, without loading a tensor."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from ..files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LEFT_OUT = re.compile(r"(^|\.)(pooler\..*|masked_bias)$")
"""Masked-LM checkpoints have no pooler, through which token embeddings do not go; old versions
stored the value of a mask."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where one tensor lies on disk."""

    name: str
    """As stored, with the prefix of a head model if there is one."""
    dtype: str
    """As safetensors spells it: F32, BF16, ..."""
    shape: tuple[int, ...]
    """Rows first."""
    file: Path
    """The shard."""
    start: int
    """First byte, from the start of the file."""
    nbytes: int
    """Length in bytes."""


def check_checkpoint(folder: Path) -> list[StoredTensor]:
    """Return the tensors of a checkpoint after checking that every shard is whole.

    Raises:
        FileNotFoundError: There are no safetensors weights, or a shard is missing.
        ValueError: A shard is truncated or not safetensors, or its tensors overlap.
    """
    return [tensor for shard in _shards(folder) for tensor in read_shard(shard)]


def _shards(folder: Path) -> list[Path]:
    # a single file wins over an index, as it does in Transformers
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {SINGLE} and no {INDEX}; only safetensors weights are read, so "
            "convert pickled ones first (load them with transformers and call save_pretrained)"
        )
    index = read_json(folder / INDEX, "the list of shards of a sharded checkpoint")
    names = set(index.get("weight_map", {}).values())
    apart = sorted(name for name in names if Path(name).name != name)
    if apart:
        raise ValueError(
            f"{folder / INDEX} names {apart[0]!r}, which is no file beside it; put all shards into "
            "one folder"
        )
    shards = sorted(folder / name for name in names)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing[:3])}; "
            "copy or download the checkpoint again"
        )
    return shards


def read_shard(shard: Path) -> list[StoredTensor]:
    """Return the tensors of one safetensors file after checking that it is whole.

    Raises:
        ValueError: It is truncated or not safetensors, or its tensors overlap.
    """
    try:
        with safe_open(shard, "numpy"):  # which checks the header against the file
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{shard} is truncated or otherwise no whole safetensors file ({error}); copy or "
            "download it again"
        ) from error
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return [
        StoredTensor(
            name=name,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            file=shard,
            start=8 + length + entry["data_offsets"][0],
            nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    ]


def belongs(key: str, model: PreTrainedModel) -> bool:
    """Say whether a tensor that a model does not read is of its own kind, and not of a head."""
    first, *_ = key.removeprefix(f"{model.base_model_prefix}.").split(".")
    own = {**dict(model.named_children()), **dict(model.base_model.named_children())}
    return first in own and not is_left_out(key)


def is_left_out(key: str) -> bool:
    """Say whether a tensor has no part in token embeddings, so that it may be there or not."""
    return _LEFT_OUT.search(key) is not None
