"""Write safetensors shards from byte ranges of another checkpoint, one tensor at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..progress import progress_bar
from .safetensors_files import INDEX, SINGLE, StoredTensor, check_checkpoint, read_shard
from .weights import not_finite

STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The dtypes that weights are stored in, as safetensors spells them."""
_EXPONENTS = {"F64": 0x7FF << 52, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
"""The bits that are all set in a number that is NaN or infinite, and in no other."""
_BLOCK_BYTES = 1 << 18  # larger ones leave the processor's cache and are slower
_SAMPLES = 5
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedTensor:
    """One tensor to write, and where it comes from: copied, sliced or given."""

    name: str
    """To be written under."""
    dtype: str
    """As safetensors spells it: F32, BF16, ..."""
    shape: tuple[int, ...]
    """Once written."""
    source: StoredTensor | None = None
    """Where the bytes lie; None where there are `values`."""
    dimension: int = 0
    """Along which `kept` selects."""
    kept: torch.Tensor | None = None
    """Indices (int64, ascending) of the source that are written; None copies it whole."""
    values: torch.Tensor | None = None
    """New values of any float dtype; they are cast to `dtype`."""

    @property
    def nbytes(self) -> int:
        """Length once written, in bytes."""
        return math.prod(self.shape) * STORED_DTYPES[self.dtype].itemsize

    def order(self) -> tuple[int, str, int, str]:
        """Sort wide dtypes first, so that all are aligned, then in the source's own order."""
        file, start = (str(self.source.file), self.source.start) if self.source else ("", 0)
        return -STORED_DTYPES[self.dtype].itemsize, file, start, self.name


@dataclass(frozen=True, kw_only=True, eq=False)
class Shard:
    """One safetensors file to write."""

    name: str
    """File name."""
    tensors: Sequence[PlannedTensor]
    """In the order of their bytes."""

    @property
    def header(self) -> bytes:
        """All that comes before the first tensor: length, then JSON padded to 8 bytes."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in self.tensors:
            offsets = [end, end := end + tensor.nbytes]
            entries[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": offsets,
            }
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def lay_out(tensors: Iterable[PlannedTensor], shard_bytes: int) -> list[Shard]:
    """Distribute tensors over files of at most `shard_bytes`, or of one larger tensor."""
    contents: list[list[PlannedTensor]] = []
    room = 0
    for tensor in sorted(tensors, key=PlannedTensor.order):
        if not contents or tensor.nbytes > room:
            contents.append([])
            room = shard_bytes
        contents[-1].append(tensor)
        room -= tensor.nbytes
    count = len(contents)
    if count == 1:
        return [Shard(name=SINGLE, tensors=contents[0])]
    return [
        Shard(name=f"model-{number:05}-of-{count:05}.safetensors", tensors=content)
        for number, content in enumerate(contents, start=1)
    ]


def side_files(shards: Sequence[Shard]) -> dict[str, bytes]:
    """Return the index that several shards need, by file name; a single file needs none."""
    if len(shards) == 1:
        return {}
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    index = {
        "metadata": {
            "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors),
            "total_size": sum(tensor.nbytes for tensor in tensors),
        },
        "weight_map": {tensor.name: shard.name for shard in shards for tensor in shard.tensors},
    }
    return {INDEX: (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()}


def written_bytes(shards: Sequence[Shard]) -> int:
    """Return the exact size of all files that `write_shards` writes."""
    tensors = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    headers = sum(len(shard.header) for shard in shards)
    return tensors + headers + sum(len(content) for content in side_files(shards).values())


def write_shards(shards: Sequence[Shard], out: Path, *, show_progress: bool = False) -> None:
    """Write all shards and their index into a folder; no more than one tensor is held.

    Raises:
        OSError: The disk is full.
        RuntimeError: A source file became shorter meanwhile.
        ValueError: A tensor holds NaN or infinite numbers.
    """
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    with progress_bar(
        total=total, desc="weights", unit="B", unit_scale=True, shown=show_progress
    ) as bar:
        for shard in shards:
            with (out / shard.name).open("wb") as target:
                target.write(shard.header)
                for block in chain.from_iterable(map(_finite_blocks, shard.tensors)):
                    target.write(block.data)
                    bar.update(block.nbytes)
    for name, content in side_files(shards).items():
        (out / name).write_bytes(content)


def check_written(shards: Sequence[Shard], out: Path) -> None:
    """Read the written headers again and compare samples of every copied tensor with the source.

    Raises:
        RuntimeError: A name, dtype, shape, size or sampled byte differs.
    """
    try:
        written = {tensor.name: tensor for tensor in check_checkpoint(out)}
    except (FileNotFoundError, ValueError) as error:
        raise RuntimeError(f"the written checkpoint cannot be read back: {error}") from error
    planned = {tensor.name: tensor for shard in shards for tensor in shard.tensors}
    if written.keys() != planned.keys():
        names = sorted(written.keys() ^ planned.keys())
        raise RuntimeError(f"{out} was written with other tensors than planned: {names[:3]}")
    for name, tensor in planned.items():
        found = written[name]
        if (found.dtype, found.shape, found.nbytes) != (tensor.dtype, tensor.shape, tensor.nbytes):
            raise RuntimeError(
                f"{name} was written to {found.file} as {found.dtype} {found.shape} instead of "
                f"{tensor.dtype} {tensor.shape}; write it again and check the disk"
            )
        if tensor.source is not None and tensor.kept is None:
            _check_samples(found, tensor.source)


def _check_samples(written: StoredTensor, source: StoredTensor) -> None:
    last = max(source.nbytes - _SAMPLE_BYTES, 0)
    with written.file.open("rb") as ours, source.file.open("rb") as theirs:
        for position in sorted({last * sample // (_SAMPLES - 1) for sample in range(_SAMPLES)}):
            count = min(_SAMPLE_BYTES, source.nbytes)
            ours.seek(written.start + position)
            theirs.seek(source.start + position)
            if ours.read(count) != theirs.read(count):
                raise RuntimeError(
                    f"{written.name} in {written.file} differs from {source.file} after copying; "
                    "write it again and check the disk"
                )


def check_file_finite(file: Path) -> None:
    """Refuse a safetensors file whose floats are NaN or infinite, a block at a time.

    Raises:
        ValueError: Some are, or the file is damaged.
    """
    for stored in read_shard(file):
        if stored.dtype in STORED_DTYPES:
            tensor = PlannedTensor(
                name=stored.name, dtype=stored.dtype, shape=stored.shape, source=stored
            )
            for _ in _finite_blocks(tensor):
                pass


def _finite_blocks(tensor: PlannedTensor) -> Iterator[np.ndarray]:
    """Yield the elements of a tensor after a look at each."""
    exponent = np.array(_EXPONENTS[tensor.dtype], _bits(tensor.dtype))
    for block in _blocks(tensor):
        if ((block & exponent) == exponent).any():
            if tensor.source is not None:
                raise not_finite([tensor.name], str(tensor.source.file.parent))
            raise ValueError(
                f"the new values of {tensor.name} are NaN or infinite in {tensor.dtype}; make the "
                "plan for the base in bf16 or fp32"
            )
        yield block


def _blocks(tensor: PlannedTensor) -> Iterator[np.ndarray]:
    """Yield the elements of a tensor in order, as integers of their size."""
    bits = _bits(tensor.dtype)
    if tensor.values is not None:
        values = tensor.values.detach().to("cpu", STORED_DTYPES[tensor.dtype]).flatten()
        yield values.view(torch.uint8).numpy().view(bits)
    elif tensor.source is None:
        raise RuntimeError(f"{tensor.name} has neither a source nor values")
    elif tensor.kept is not None:
        stored = _read(tensor.source, 0, math.prod(tensor.source.shape))
        kept = tensor.kept.cpu().numpy()
        yield stored.reshape(tensor.source.shape).take(kept, axis=tensor.dimension)
    else:
        count, step = math.prod(tensor.shape), _BLOCK_BYTES // bits.itemsize
        for first in range(0, count, step):
            yield _read(tensor.source, first, min(step, count - first))


def _read(source: StoredTensor, first: int, count: int) -> np.ndarray:
    """Read some elements of a stored tensor, as integers of their size."""
    bits = _bits(source.dtype)
    offset = source.start + first * bits.itemsize
    found = np.fromfile(source.file, bits, count, offset=offset)
    if found.size != count:
        raise RuntimeError(
            f"{source.file} ended early: it was changed while it was read; make sure that it is "
            "whole and write again"
        )
    return found


def _bits(dtype: str) -> np.dtype:
    return np.dtype(f"u{STORED_DTYPES[dtype].itemsize}")
