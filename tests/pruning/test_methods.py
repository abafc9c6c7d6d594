"""A way of choosing neurons is one class and one line in the table."""

from __future__ import annotations

import inspect

import pytest
import torch
from tiny import save_bare

from effir_integrations.encoder.loading import load
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
