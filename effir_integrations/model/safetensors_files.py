"""Read the shape of a safetensors checkpoint from its headers, without loading a tensor."""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_HEADER = 100_000_000
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16}
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
    header, data_start = read_header(shard)
    tensors = [
        _stored(shard, name, entry, data_start)
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    end = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != end:
            raise ValueError(
                f"{tensor.name} in {shard} begins at byte {tensor.start - data_start:,} of the "
                f"data, and the tensor before ends at {end - data_start:,}; copy or download it "
                "again"
            )
        end += tensor.nbytes
    size = shard.stat().st_size
    if size != end:
        raise ValueError(
            f"{shard} is truncated: its header promises {end:,} bytes, the file has {size:,}; "
            "copy or download it again"
        )
    return tensors


def _stored(shard: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    try:
        start, end = map(int, entry["data_offsets"])
        shape = tuple(map(int, entry["shape"]))
        tensor = StoredTensor(
            name=name,
            dtype=str(entry["dtype"]),
            shape=shape,
            file=shard,
            start=data_start + start,
            nbytes=end - start,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} in {shard} has no dtype, shape and offsets that can be read; copy or download "
            "it again"
        ) from error
    bits = _BITS.get(tensor.dtype)
    if tensor.nbytes < 0 or (bits and tensor.nbytes * 8 != math.prod(shape) * bits):
        raise ValueError(
            f"{name} in {shard} has shape {shape} in {tensor.dtype}, but {tensor.nbytes:,} bytes; "
            "copy or download it again"
        )
    return tensor


def belongs(key: str, model: PreTrainedModel) -> bool:
    """Say whether a tensor that a model does not read is of its own kind, and not of a head."""
    first, *_ = key.removeprefix(f"{model.base_model_prefix}.").split(".")
    own = {**dict(model.named_children()), **dict(model.base_model.named_children())}
    return first in own and not is_left_out(key)


def is_left_out(key: str) -> bool:
    """Say whether a tensor has no part in token embeddings, so that it may be there or not."""
    return _LEFT_OUT.search(key) is not None


def read_header(shard: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors header and the position of the first tensor byte.

    Raises:
        ValueError: The file is too short or its header is no JSON object.
    """
    with shard.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER + 1
        text = file.read(length) if length <= _MAX_HEADER else b""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{shard} is no whole safetensors file; copy or download it again")
    return header, 8 + length
