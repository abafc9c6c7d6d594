"""A model whose layers are left on disk is analyzed and reconstructed as one in memory."""

from __future__ import annotations

import pytest
import torch
from tiny import KINDS, ON_DISK, WORDS, save_bare

from effir_integrations import CompressConfig, DropConfig, compress, drop, export
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.families import find
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.surgery import model_layers
from effir_integrations.pruning.analyze import analyze
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.reconstruct import reconstruct

TEXTS = [" ".join(WORDS[start : start + length]) for start, length in ((0, 9), (5, 20), (2, 14))]
HALF = ReconstructConfig(keep_neurons=0.5, multiple_of=4, count_by="stream")


def layers(encoder):
    model = transformer_model(encoder)
    return model_layers(model, find(model.config))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ON_DISK])
def test_plans_are_the_same_and_layers_stay_on_disk(kind, tmp_path):
    folder = save_bare(kind, tmp_path)
    here, there = load(folder, device="cpu"), load(folder, device="cpu", from_disk=True)
    reports = [analyze(encoder, TEXTS) for encoder in (here, there)]
    assert reports[0].to_json() == reports[1].to_json()
    base = BaseIdentity.of(transformer_model(there))
    assert base == BaseIdentity.of(transformer_model(here))
    plans = [
        reconstruct(encoder, TEXTS, HALF, plan=PruningPlan(base=base, drop_mlp=(3,)))
        for encoder in (here, there)
    ]
    assert plans[0].neurons.keys() == plans[1].neurons.keys()
    for layer, kept in plans[0].neurons.items():
        assert torch.equal(kept, plans[1].neurons[layer])
        for name, values in plans[0].outputs[layer].items():
            # a layer on disk is masked where one in memory is narrowed: sums in another order
            torch.testing.assert_close(values, plans[1].outputs[layer][name], rtol=1e-4, atol=1e-5)
    assert all(parameter.is_meta for layer in layers(there) for parameter in layer.parameters())
    assert not any(parameter.is_meta for parameter in layers(here).parameters())


def test_vectors_are_the_same(tmp_path):
    folder = save_bare("qwen3", tmp_path)
    here, there = load(folder, device="cpu"), load(folder, device="cpu", from_disk=True)
    assert torch.equal(
        here.encode(TEXTS, convert_to_tensor=True), there.encode(TEXTS, convert_to_tensor=True)
    )


@pytest.mark.parametrize("options", [{"precision": "fp32"}, {"compile": True}], ids=str)
def test_what_needs_the_weights_in_memory_is_refused(options, tmp_path):
    with pytest.raises(ValueError, match="leave precision and compile out"):
        load(save_bare("llama", tmp_path), device="cpu", from_disk=True, **options)


def test_a_model_is_compressed_from_disk_to_the_vectors_of_its_stages_in_memory(tmp_path):
    source = save_bare("llama", tmp_path / "base")
    config = CompressConfig(keep_neurons=0.5, drop_mlp=1, multiple_of=4, from_disk=True)
    made = compress(source, tmp_path / "out", config, texts=TEXTS)
    assert sum(made.plan.mlp_widths) == 3 * 24
    vectors = load(tmp_path / "out", device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert torch.allclose(made.encoder.encode(TEXTS, convert_to_tensor=True), vectors)
    dropped = drop(source, DropConfig(mlp=1), analyze(source, TEXTS))
    assert dropped.drop_mlp == made.plan.drop_mlp
    plan = reconstruct(load(source, device="cpu"), TEXTS, HALF, plan=dropped)
    here = export(source, plan, tmp_path / "here")
    # a layer on disk is masked where one in memory is narrowed: sums in another order
    torch.testing.assert_close(
        vectors, here.encode(TEXTS, convert_to_tensor=True), rtol=1e-3, atol=1e-5
    )


def test_another_precision_cannot_be_written_from_disk():
    with pytest.raises(ValueError, match="from_disk copies weights as they are stored"):
        CompressConfig(keep_neurons=0.5, from_disk=True, dtype="bf16")
