from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from effir_integrations.model.safetensors_files import INDEX, SINGLE, check_checkpoint
from effir_integrations.model.shards import (
    PlannedTensor,
    Shard,
    check_written,
    lay_out,
    write_shards,
    written_bytes,
)

CONTENT = {
    "a": torch.arange(35.0).view(5, 7),
    "b": torch.arange(400_003.0).to(torch.bfloat16),
    "c": torch.arange(33.0).view(11, 3).to(torch.float16),
    "d": torch.arange(9.0).view(3, 3),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    save_file(CONTENT, folder / SINGLE)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def copies(source: Path) -> list[PlannedTensor]:
    return [
        PlannedTensor(name=x.name, dtype=x.dtype, shape=x.shape, source=x)
        for x in check_checkpoint(source)
    ]


def written(out: Path) -> dict[str, torch.Tensor]:
    return {name: x for file in out.glob("*.safetensors") for name, x in load_file(file).items()}


def assert_content(out: Path) -> None:
    found = written(out)
    assert found.keys() == CONTENT.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        for name, tensor in CONTENT.items()
    )


def test_shards_stay_below_the_limit_unless_one_tensor_is_larger(source: Path, out: Path) -> None:
    shards = lay_out(copies(source), 180)
    assert [[tensor.name for tensor in shard.tensors] for shard in shards] == [
        ["a", "d"],
        ["b"],
        ["c"],
    ]
    write_shards(shards, out)
    check_written(shards, out)
    assert_content(out)
    assert sum(path.stat().st_size for path in out.iterdir()) == written_bytes(shards)
    index = json.loads((out / INDEX).read_text())
    assert index["weight_map"]["b"] == "model-00002-of-00003.safetensors"
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in CONTENT.values())


def test_every_tensor_is_aligned_to_its_dtype(source: Path, out: Path) -> None:
    tensors = [
        *copies(source),
        PlannedTensor(name="e", dtype="F32", shape=(), values=torch.ones(())),
    ]
    shards = lay_out(tensors, 10**9)
    write_shards(shards, out)
    for tensor in check_checkpoint(out):
        assert tensor.start % {"F32": 4, "BF16": 2, "F16": 2}[tensor.dtype] == 0
    with safe_open(out / SINGLE, "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", ["a", "c"])
@pytest.mark.parametrize("dimension", [0, 1])
def test_slices_keep_rows_or_columns(source: Path, out: Path, name: str, dimension: int) -> None:
    stored = {tensor.name: tensor for tensor in check_checkpoint(source)}[name]
    kept = torch.tensor([0, 2])
    expected = CONTENT[name].index_select(dimension, kept)
    plan = PlannedTensor(
        name=name,
        dtype=stored.dtype,
        shape=tuple(expected.shape),
        source=stored,
        dimension=dimension,
        kept=kept,
    )
    shards = lay_out([plan], 10**9)
    write_shards(shards, out)
    check_written(shards, out)
    assert torch.equal(written(out)[name], expected)


def test_values_are_cast_as_torch_casts(out: Path) -> None:
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).T
    shards = lay_out([PlannedTensor(name="x", dtype="BF16", shape=(3, 5), values=values)], 10**9)
    write_shards(shards, out)
    assert torch.equal(written(out)["x"], values.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_copied_tensor_that_is_not_finite_is_named(
    tmp_path: Path, out: Path, dtype: torch.dtype, value: float
) -> None:
    tensor = torch.full((3, 100_001), torch.finfo(dtype).max, dtype=dtype)
    folder = tmp_path / "bad"
    folder.mkdir()
    save_file({"x": tensor}, folder / SINGLE)
    write_shards(lay_out(copies(folder), 10**9), out)
    tensor[2, -1] = value
    save_file({"x": tensor}, folder / SINGLE)
    with pytest.raises(ValueError, match=f"^{folder} has weights that are NaN or infinite: x; "):
        write_shards(lay_out(copies(folder), 10**9), out)


def test_a_sliced_tensor_may_lose_what_is_not_finite(tmp_path: Path, out: Path) -> None:
    tensor = torch.ones(3, 4)
    tensor[1, 2] = torch.nan
    save_file({"x": tensor}, tmp_path / SINGLE)
    (stored,) = check_checkpoint(tmp_path)

    def write(kept: list[int]) -> None:
        indices = torch.tensor(kept)
        plan = PlannedTensor(name="x", dtype="F32", shape=(2, 4), source=stored, kept=indices)
        write_shards(lay_out([plan], 10**9), out)

    write([0, 2])
    with pytest.raises(ValueError, match="NaN or infinite: x"):
        write([0, 1])


def test_values_that_overflow_when_they_are_cast_are_named(out: Path) -> None:
    plan = PlannedTensor(name="x", dtype="F16", shape=(2,), values=torch.tensor([1.0, 1e5]))
    with pytest.raises(ValueError, match="new values of x are NaN or infinite in F16; make"):
        write_shards(lay_out([plan], 10**9), out)


@pytest.mark.parametrize("sliced", [False, True])
def test_a_source_that_becomes_shorter_is_noticed(source: Path, out: Path, sliced: bool) -> None:
    shards = lay_out(copies(source), 10**9)
    if sliced:
        (tensor,) = [x for x in shards[0].tensors if x.name == "c"]
        kept = torch.arange(2)
        plan = PlannedTensor(name="c", dtype="F16", shape=(2, 3), source=tensor.source, kept=kept)
        shards = lay_out([plan], 10**9)
    os.truncate(source / SINGLE, (source / SINGLE).stat().st_size - 4)
    with pytest.raises(RuntimeError, match="ended early"):
        write_shards(shards, out)


def flip_byte(out: Path) -> None:
    tensor = next(tensor for tensor in check_checkpoint(out) if tensor.name == "b")
    with tensor.file.open("r+b") as file:
        file.seek(tensor.start + tensor.nbytes - 1)
        last = file.read(1)[0]
        file.seek(tensor.start + tensor.nbytes - 1)
        file.write(bytes([last ^ 1]))


def cut_short(out: Path) -> None:
    os.truncate(out / SINGLE, (out / SINGLE).stat().st_size - 2)


def lose_tensor(out: Path) -> None:
    save_file({name: x for name, x in CONTENT.items() if name != "b"}, out / SINGLE)


def change_dtype(out: Path) -> None:
    save_file({**CONTENT, "b": CONTENT["b"].to(torch.float16)}, out / SINGLE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_byte, "b in .* differs from"),
        (cut_short, "cannot be read back"),
        (lose_tensor, r"other tensors than planned: \['b'\]"),
        (change_dtype, r"as F16 \(400003,\) instead of BF16"),
    ],
)
def test_damage_after_writing_is_found(source: Path, out: Path, damage: Any, message: str) -> None:
    shards: list[Shard] = lay_out(copies(source), 10**9)
    write_shards(shards, out)
    check_written(shards, out)
    damage(out)
    with pytest.raises(RuntimeError, match=message):
        check_written(shards, out)
