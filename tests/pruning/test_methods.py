"""A way of choosing neurons is one class and one line in the table."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from test_refit import LAYER, LENGTHS, calibrator, only_batch, plan_of, words
from tiny import save_bare

from effir_integrations.encoder.loading import load
from effir_integrations.model.hooks import capture
from effir_integrations.pruning import config as settings
from effir_integrations.pruning.config import CompressConfig, ReconstructConfig
from effir_integrations.pruning.methods import METHODS, Plain
from effir_integrations.pruning.ranking import Removal
from effir_integrations.pruning.reconstruct import reconstruct


class LastNeurons(Plain):
    """The neurons of the highest number go."""

    def removal(self, moments, weight, *, bias, ridge):
        order = torch.arange(weight.shape[1]).flip(0)
        return Removal(order=order, cost=torch.arange(len(order)).double())


def test_a_new_class_in_the_table_is_chosen_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "last", LastNeurons())
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    chosen = ReconstructConfig(keep_neurons=0.5, multiple_of=4, method="last")
    plan = reconstruct(encoder, ["red fox", "blue sky over the sea"], chosen)
    assert plan.neurons and not plan.outputs
    for kept in plan.neurons.values():
        assert kept.tolist() == list(range(len(kept)))


@pytest.mark.parametrize("config", [ReconstructConfig, CompressConfig])
@pytest.mark.parametrize("method", METHODS)
def test_the_help_names_each_method(config, method):
    assert config.__module__ == settings.__name__
    assert f"`{method}`" in inspect.getsource(config)


@pytest.mark.parametrize("name", ["plain", "mean"])
def test_baselines_count_tokens_alike_and_rank_neurons_one_by_one(name, tmp_path):
    made = calibrator("bert", tmp_path, method=name)
    batch = only_batch(made)
    seen = capture(made.encoder, made.architecture, batch, [LAYER])[LAYER]
    assert made.method.count(batch, seen).tolist() == [1.0] * len(seen.stream)
    removals, means = made.rank(plan_of(made), {LAYER: 48})
    inputs = seen.activations.double()
    about = inputs - inputs.mean(0) if name == "mean" else inputs
    weight = made.output(LAYER).weight.detach().double()
    energy = about.square().mean(0) * weight.square().sum(0)
    torch.testing.assert_close(removals[LAYER].cost, energy.sort().values, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(means[LAYER], inputs.mean(0), rtol=1e-5, atol=1e-6)


def test_a_batch_without_a_mask_has_no_padding(tmp_path):
    made = calibrator("llama", tmp_path, words(LENGTHS[-1:]))
    batch = only_batch(made)
    seen = capture(made.encoder, made.architecture, batch, [LAYER])[LAYER]
    without = {"input_ids": batch["input_ids"]}
    assert torch.equal(made.method.count(without, seen), made.method.count(batch, seen))


def test_a_silent_stream_counts_for_much_and_not_without_end(tmp_path):
    made = calibrator("llama", tmp_path)
    batch = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    seen = capture(made.encoder, made.architecture, only_batch(made), [LAYER])[LAYER]
    silent = dataclasses.replace(seen, stream=torch.ones(4, 32))
    assert made.method.count(batch, silent).tolist() == pytest.approx([0.25e12] * 4)
