"""Read the shape of a safetensors checkpoint from its headers, without loading a tensor."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_HEADER = 100_000_000


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
        ValueError: A shard is truncated or not safetensors.
    """
    return [tensor for shard in _shards(folder) for tensor in _read_shard(shard)]


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


def _read_shard(shard: Path) -> list[StoredTensor]:
    header, data_start = read_header(shard)
    tensors = [
        StoredTensor(
            name=name,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            file=shard,
            start=data_start + entry["data_offsets"][0],
            nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    ]
    expected = max((tensor.start + tensor.nbytes for tensor in tensors), default=data_start)
    size = shard.stat().st_size
    if size != expected:
        raise ValueError(
            f"{shard} is truncated: its header promises {expected:,} bytes, the file has {size:,}; "
            "copy or download it again"
        )
    return tensors


def read_header(shard: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors header and the position of the first tensor byte.

    Raises:
        ValueError: The file is too short or its header is not JSON.
    """
    with shard.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER + 1
        text = file.read(length) if length <= _MAX_HEADER else b""
    try:
        header = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{shard} is no whole safetensors file; copy or download it again"
        ) from error
    return header, 8 + length
