from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored import (
    SMALL,
    cut,
    edit_config,
    edit_tensors,
    new,
    save,
    save_with_head,
    tensors_of,
)
from tiny import FAMILIES, ON_DISK, in_full, save_bare, slow_if_related
from transformers import AutoModel

from effir_integrations import files, load
from effir_integrations.model.apply import apply
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.modeling import STANDALONE_FILE
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import (
    check_plan_fits_disk,
    identity_on_disk,
    rewrite_checkpoint,
    rewritten_bytes,
)
from effir_integrations.model.safetensors_files import INDEX, check_checkpoint


def refit(base: BaseIdentity) -> PruningPlan:
    transposed = base.family == "gpt2"
    outputs = {}
    generator = torch.Generator().manual_seed(3)
    for layer, width in ((0, 48), (1, 16)):
        weight = torch.randn(32, width, generator=generator)
        bias = torch.randn(32, generator=generator)
        outputs[layer] = {"weight": weight.T if transposed else weight, "bias": bias}
    return cut(base, outputs=outputs)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


WAYS = [(cut, "fp32", False), (cut, "bf16", True), (refit, "fp32", True), (refit, "bf16", False)]


def each_way() -> list[Any]:
    """Return families and ways; of `RELATED` ones, all but the first are slow."""
    first, *rest = WAYS
    every_day = [(family, *first) for family in ON_DISK]
    return every_day + [slow_if_related(family, *way) for family in ON_DISK for way in rest]


@pytest.mark.parametrize(("family", "make_plan", "dtype", "sharded"), each_way())
def test_gives_what_pruning_in_memory_and_saving_gives(
    family: str,
    make_plan: Callable[[BaseIdentity], PruningPlan],
    dtype: str,
    sharded: bool,
    ragged_batch: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    source = save(family, tmp_path / "base", dtype=dtype, sharded=sharded)
    plan = make_plan(identity_on_disk(source))
    size = SMALL if sharded else 5_000_000_000
    out = new(tmp_path / "out")
    needed = rewritten_bytes(source, plan, shard_bytes=size)

    rewrite_checkpoint(source, plan, out, shard_bytes=size)
    in_memory = apply(AutoModel.from_pretrained(source), plan)
    in_memory.save_pretrained(tmp_path / "expected")

    assert_same(tensors_of(out), tensors_of(tmp_path / "expected"))
    for name in ("config.json", STANDALONE_FILE):
        assert (out / name).read_text() == (tmp_path / "expected" / name).read_text()
    assert (out / INDEX).is_file() == sharded
    assert files.folder_bytes(out) == needed
    with torch.inference_mode():
        ours = AutoModel.from_pretrained(out)(**ragged_batch).last_hidden_state
        theirs = in_memory(**ragged_batch).last_hidden_state
    assert torch.equal(ours, theirs)


@in_full(*ON_DISK)
def test_tensors_of_a_head_are_left_out_and_its_prefix_goes(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = save_with_head(family, tmp_path / "head", tie_word_embeddings=False)
    plan = cut(identity_on_disk(source))
    with caplog.at_level(logging.INFO, "effir_integrations"):
        rewrite_checkpoint(source, plan, new(tmp_path / "out"))
    apply(AutoModel.from_pretrained(source), plan).save_pretrained(tmp_path / "expected")

    expected = tensors_of(tmp_path / "expected")
    stored = {tensor.name for tensor in check_checkpoint(source)}
    if not any("pooler" in name for name in stored):  # a random one at every load
        expected = {name: x for name, x in expected.items() if not name.startswith("pooler.")}
    assert_same(tensors_of(tmp_path / "out"), expected)
    assert "of a model with a head goes" in caplog.text
    assert "left out, a head" in caplog.text


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "bert"])
def test_a_tied_head_leaves_the_embedding_whole(family: str, tmp_path: Path) -> None:
    source = save_with_head(family, tmp_path / "head", tie_word_embeddings=True)
    rewrite_checkpoint(source, cut(identity_on_disk(source)), new(tmp_path / "out"))
    embedding = AutoModel.from_pretrained(source).get_input_embeddings().weight
    written = AutoModel.from_pretrained(tmp_path / "out").get_input_embeddings().weight
    assert torch.equal(written, embedding)


@in_full(*ON_DISK)
def test_a_pruned_checkpoint_can_be_pruned_again(
    family: str, ragged_batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    source = save(family, tmp_path / "base")
    rewrite_checkpoint(source, refit(identity_on_disk(source)), new(tmp_path / "once"))
    base = identity_on_disk(tmp_path / "once")
    assert base.mlp_widths == (48, 16, 48, 0)
    kept = torch.arange(0, 16, 2)
    plan = PruningPlan(base=base, drop_mlp=(0,), drop_attention=(0,), neurons={1: kept})

    rewrite_checkpoint(tmp_path / "once", plan, new(tmp_path / "twice"))
    in_memory = apply(AutoModel.from_pretrained(tmp_path / "once"), plan)
    with torch.inference_mode():
        ours = AutoModel.from_pretrained(tmp_path / "twice")(**ragged_batch).last_hidden_state
        assert torch.equal(ours, in_memory(**ragged_batch).last_hidden_state)


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*ON_DISK}))
def test_what_is_stored_under_other_names_is_refused_and_told_apart(
    family: str, tmp_path: Path
) -> None:
    source = save_bare(family, tmp_path / "base")
    base = identity_on_disk(source)
    assert base == BaseIdentity.of(AutoModel.from_pretrained(source), str(source))
    words = f"{family}, which Transformers stores under other names .* in-memory export"
    with pytest.raises(ValueError, match=words):
        rewrite_checkpoint(source, cut(base), new(tmp_path / "out"))
    with pytest.raises(ValueError, match=words):
        load(source, from_disk=True)
    assert not list((tmp_path / "out").iterdir())


def test_a_config_without_dtype_gets_the_stored_one(tmp_path: Path) -> None:
    source = save("llama", tmp_path / "base", dtype="bf16")
    edit_config(source, dtype=None)
    plan = cut(identity_on_disk(source))
    rewrite_checkpoint(source, plan, new(tmp_path / "out"))
    apply(AutoModel.from_pretrained(source), plan).save_pretrained(tmp_path / "expected")
    written = (tmp_path / "out" / "config.json").read_text()
    assert json.loads(written)["dtype"] == "bfloat16"
    assert written == (tmp_path / "expected" / "config.json").read_text()


def test_dropped_sublayers_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save("llama", tmp_path / "base")
    plan = PruningPlan(base=identity_on_disk(source), drop_mlp=(0, 3), drop_attention=(1,))
    ranges: list[tuple[int, int]] = []
    read = np.fromfile

    def spy(file: Path, dtype: np.dtype, count: int, *, offset: int) -> np.ndarray:
        ranges.append((offset, offset + count * dtype.itemsize))
        return read(file, dtype, count, offset=offset)

    monkeypatch.setattr(np, "fromfile", spy)
    rewrite_checkpoint(source, plan, new(tmp_path / "out"))
    kept = tensors_of(tmp_path / "out").keys()
    assert len(ranges) == len(kept)
    dropped = [tensor for tensor in check_checkpoint(source) if tensor.name not in kept]
    assert dropped
    for tensor in dropped:
        end = tensor.start + tensor.nbytes
        assert not [x for x in ranges if x[0] < end and x[1] > tensor.start], tensor.name


def test_a_real_model_gives_the_same_vectors(minilm: Path, tmp_path: Path) -> None:
    base = identity_on_disk(minilm)
    assert base == BaseIdentity.of(AutoModel.from_pretrained(minilm))
    kept = torch.arange(0, base.mlp_widths[1], 2)
    plan = PruningPlan(base=base, drop_mlp=(4,), drop_attention=(5,), neurons={1: kept})
    rewrite_checkpoint(minilm, plan, new(tmp_path / "out"))
    in_memory = apply(AutoModel.from_pretrained(minilm), plan)
    ids = torch.arange(1000, 1040).view(2, 20)
    with torch.inference_mode():
        ours = AutoModel.from_pretrained(tmp_path / "out")(ids).last_hidden_state
        assert torch.equal(ours, in_memory(ids).last_hidden_state)


def lose_a_shard(folder: Path) -> None:
    next(folder.glob("*-00002-*.safetensors")).unlink()


def truncate_a_shard(folder: Path) -> None:
    shard = next(folder.glob("*-00002-*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 8)


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def change_a_weight(folder: Path) -> None:
    edit_tensors(folder, lambda content: content["layers.2.mlp.down_proj.weight"].add_(1))


def rename(folder: Path) -> None:
    old = "layers.0.input_layernorm.weight"
    edit_tensors(folder, lambda content: content.update({"old.gamma": content.pop(old)}))


def store_twice(folder: Path) -> None:
    def edit(content: dict[str, torch.Tensor]) -> None:
        content["model.norm.weight"] = content["norm.weight"].clone()

    edit_tensors(folder, edit)


def store_integers(folder: Path) -> None:
    name = "layers.3.mlp.up_proj.weight"
    edit_tensors(folder, lambda content: content.update({name: content[name].to(torch.int8)}))


def change_config(folder: Path) -> None:
    edit_config(folder, vocab_size=65)


def quantize(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "fp8"})


def add_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def change_family(folder: Path) -> None:
    edit_config(folder, model_type="t5")


@pytest.mark.parametrize(
    ("damage", "sharded", "error", "message"),
    [
        (lose_a_shard, True, FileNotFoundError, "lacks 1 of .* shards"),
        (truncate_a_shard, True, ValueError, "is truncated"),
        (lose_config, False, FileNotFoundError, "holds no config.json"),
        (change_a_weight, False, ValueError, "the weights of .* differ"),
        (rename, False, ValueError, "lacks 1 of the .*old.gamma.*in-memory export"),
        (store_twice, False, ValueError, "stores norm.weight twice"),
        (store_integers, False, ValueError, "stored as I8"),
        (change_config, False, ValueError, r"has shape \(64, 32\).*asks for \(65, 32\)"),
        (quantize, False, ValueError, "has quantization_config"),
        (add_adapter, False, ValueError, "adapter beside the weights"),
        (change_family, False, ValueError, "'t5' is not supported"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line_before_writing(
    damage: Callable[[Path], None],
    sharded: bool,
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    source = save("llama", tmp_path / "base", sharded=sharded)
    plan = cut(identity_on_disk(source))
    check_plan_fits_disk(source, plan)
    damage(source)
    out = new(tmp_path / "out")
    with pytest.raises(error, match=message) as caught:
        rewrite_checkpoint(source, plan, out)
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())
    with pytest.raises(error, match=message):
        check_plan_fits_disk(source, plan)
    with pytest.raises(error, match=message):
        rewritten_bytes(source, plan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_mlp": (9,)}, "layer 9 is out of range"),
        ({"drop_attention": (0, 1, 2, 3)}, "would leave none"),
        ({"neurons": {0: torch.tensor([5, 5])}}, "no ascending choice of its 48"),
        ({"outputs": {0: {"weight": torch.zeros(32, 47)}}}, r"shape \(32, 47\), not \(32, 48\)"),
        ({"outputs": {7: {"weight": torch.zeros(32, 48)}}}, "layer 7 is out of range"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_writing(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = save("llama", tmp_path / "base")
    base, out = identity_on_disk(source), new(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        rewrite_checkpoint(source, PruningPlan(base=base, **changes), out)
    assert not list(out.iterdir())


def test_only_an_existing_folder_without_a_checkpoint_is_written_to(tmp_path: Path) -> None:
    source = save("llama", tmp_path / "base")
    before = {path: path.read_bytes() for path in source.iterdir()}
    plan = cut(identity_on_disk(source))
    with pytest.raises(FileNotFoundError, match="is no folder"):
        rewrite_checkpoint(source, plan, tmp_path / "absent")
    with pytest.raises(FileExistsError, match="holds a checkpoint already"):
        rewrite_checkpoint(source, plan, source)
    assert before == {path: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(ValueError, match="shard_bytes=0"):
        rewrite_checkpoint(source, plan, new(tmp_path / "out"), shard_bytes=0)


def test_a_full_disk_is_refused_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save("llama", tmp_path / "base")
    plan = cut(identity_on_disk(source))
    out = new(tmp_path / "out")
    free = rewritten_bytes(source, plan) - 1
    usage = files.shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="are needed but only"):
        rewrite_checkpoint(source, plan, out)
    assert not list(out.iterdir())
