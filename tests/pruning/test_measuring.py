"""A CPU without bf16 measures half-precision models in fp32, and leaves them as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from examples import examples
from sentence_transformers.sentence_transformer.modules import Dense
from tiny import save_bare
from transformers import AutoModel

from effir_integrations import analyze, export, load
from effir_integrations.encoder.encoder import Encoder
from effir_integrations.pruning import measuring as module
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.measuring import measuring
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.slim import slim
from effir_integrations.pruning.slim_config import SlimConfig

TEXTS = [f"w{i} w{(3 * i) % 50} w{(7 * i) % 50} w{(5 * i) % 50}" for i in range(40)]
HALF = ReconstructConfig(keep_neurons=0.5, multiple_of=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Gemma 3, whose embeddings are scaled by a buffer, saved in bf16."""
    bare = save_bare("gemma3_text", tmp_path / "bare")
    AutoModel.from_pretrained(bare, dtype=torch.bfloat16).save_pretrained(bare)
    return bare


def made(folder: Path, dtype: str = "auto") -> Encoder:
    return load(folder, device="cpu", dtype=dtype)


def held(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


@pytest.fixture
def without_bf16(monkeypatch) -> None:
    monkeypatch.setattr(module, "has_bf16", lambda device: False)


def test_what_is_measured_is_in_fp32_and_goes_back_to_the_last_bit(folder, without_bf16):
    encoder = made(folder)
    encoder.add_module("2", Dense(32, 16))
    encoder[2].to(torch.bfloat16)
    before = held(encoder)
    assert torch.bfloat16 in {value.dtype for value in before.values()}
    with pytest.raises(KeyError), measuring(encoder):
        assert {value.dtype for value in encoder.parameters()} == {torch.float32}
        raise KeyError
    after = held(encoder)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype and torch.equal(value, after[name])


def test_a_machine_with_bf16_measures_in_it(folder, monkeypatch):
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    encoder = made(folder)
    with measuring(encoder):
        assert {value.dtype for value in encoder.parameters()} == {torch.bfloat16}


def test_figures_and_plans_are_those_of_the_model_in_fp32(folder, without_bf16):
    narrow, wide = made(folder), made(folder, "fp32")
    # the scale of the embeddings is a buffer, rounded in a bf16 model
    wide_model, narrow_model = wide[0].auto_model, narrow[0].auto_model
    for (_, ours), (_, theirs) in zip(
        narrow_model.named_buffers(), wide_model.named_buffers(), strict=True
    ):
        theirs.copy_(ours)
    assert analyze(narrow, TEXTS).mlp == analyze(wide, TEXTS).mlp
    plans = [reconstruct(encoder, TEXTS, HALF) for encoder in (narrow, wide)]
    assert plans[0].neurons.keys() == plans[1].neurons.keys() != set()
    for layer, kept in plans[0].neurons.items():
        assert torch.equal(kept, plans[1].neurons[layer])
        weights = [plan.outputs[layer]["weight"] for plan in plans]
        torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_the_export_has_the_dtype_of_the_model(folder, tmp_path, without_bf16):
    encoder = made(folder)
    slimmed = slim(
        made(folder), examples(), SlimConfig(sparsity=0.5, multiple_of=4, batch_size=8, examples=8)
    )
    for name, plan in (("refitted", reconstruct(encoder, TEXTS, HALF)), ("slimmed", slimmed)):
        out = export(made(folder), plan, tmp_path / name)
        assert {value.dtype for value in out.parameters()} == {torch.bfloat16}
        again = load(tmp_path / name, device="cpu")
        assert torch.equal(
            again.encode(TEXTS[:4], convert_to_tensor=True),
            out.encode(TEXTS[:4], convert_to_tensor=True),
        )
