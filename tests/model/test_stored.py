from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from stored import (
    DTYPES,
    cut,
    edit_config,
    edit_tensors,
    new,
    save,
    save_with_head,
    tensors_of,
)
from tiny import in_full
from transformers import AutoModel

from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import identity_on_disk, rewrite_checkpoint


@in_full()
@pytest.mark.parametrize("dtype", DTYPES)
def test_identity_is_that_of_the_loaded_model(family: str, dtype: str, tmp_path: Path) -> None:
    bare = save(family, tmp_path / "bare", dtype=dtype, sharded=True)
    with_head = save_with_head(family, tmp_path / "head", dtype)
    for folder in (bare, with_head):
        assert identity_on_disk(folder) == BaseIdentity.of(AutoModel.from_pretrained(folder))


def test_identity_rounds_as_loading_does(tmp_path: Path) -> None:
    # fp32 by way of fp16 is another bf16 than fp32 at once
    source = save("llama", tmp_path / "base")
    edit_config(source, dtype="float16")
    assert identity_on_disk(source) == BaseIdentity.of(AutoModel.from_pretrained(source))


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_old_buffers_are_left_out_and_logged(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = {
        "bert": "embeddings.position_ids",
        "llama": "layers.0.self_attn.rotary_emb.inv_freq",
        "gpt2": "h.0.attn.bias",
    }[family]
    source = save(family, tmp_path / "base")
    edit_tensors(source, lambda content: content.update({name: torch.arange(8)}))
    with caplog.at_level(logging.INFO, "effir_integrations"):
        rewrite_checkpoint(source, cut(identity_on_disk(source)), new(tmp_path / "out"))
    assert name not in tensors_of(tmp_path / "out")
    assert f"1 left out, computed buffers: {name}" in caplog.text
    assert not [x for x in caplog.records if x.levelno >= logging.WARNING]


def test_weights_that_the_config_leaves_out_are_refused(tmp_path: Path) -> None:
    source = save("llama", tmp_path / "base")
    edit_config(source, num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"holds 9 tensors that its config leaves out.*layers\.3"):
        identity_on_disk(source)


def test_weights_that_the_class_does_not_know_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = save("llama", tmp_path / "base")
    edit_tensors(source, lambda content: content.update({"score.weight": torch.ones(2, 2)}))
    plan = PruningPlan(base=identity_on_disk(source), drop_mlp=(1,))
    rewrite_checkpoint(source, plan, new(tmp_path / "out"))
    assert "1 left out, unknown tensors: score.weight" in caplog.text
    assert "score.weight" not in tensors_of(tmp_path / "out")


def test_old_layer_norm_names_are_refused(tmp_path: Path) -> None:
    source = save("bert", tmp_path / "base")

    def edit(content: dict[str, torch.Tensor]) -> None:
        for name in [name for name in content if name.endswith("LayerNorm.weight")]:
            content[name.removesuffix("weight") + "gamma"] = content.pop(name)

    edit_tensors(source, edit)
    with pytest.raises(ValueError, match="9 of the .*LayerNorm.gamma.*in-memory export"):
        identity_on_disk(source)


def test_an_incomplete_pooler_is_refused(tmp_path: Path) -> None:
    source = save("bert", tmp_path / "base")
    edit_tensors(source, lambda content: content.pop("pooler.dense.bias"))
    with pytest.raises(ValueError, match="lacks 1 of .*'pooler.dense.bias'"):
        identity_on_disk(source)
