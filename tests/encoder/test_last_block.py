"""The last block reads one token of each text, for whoever asked and as long as it was asked."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from tiny import tiny_model

from effir_integrations.encoder.last_block import pooled_token_only
from effir_integrations.model.families import find
from effir_integrations.model.surgery import drop_attention, drop_mlp, model_layers

IDS = torch.randint(4, 64, (3, 7), generator=torch.Generator().manual_seed(1))
ROWS = torch.arange(3)


def states(model):
    with torch.inference_mode():
        return model(input_ids=IDS).last_hidden_state


def record_inputs(model):
    """Return a dictionary that receives the shape of what enters each projection of a block."""
    architecture, shapes = find(model.config), {}
    paths = (architecture.attention_output, *architecture.mlp_inputs, architecture.mlp_output)
    for number, layer in enumerate(model_layers(model, architecture)):
        for path in paths:
            layer.get_submodule(path).register_forward_pre_hook(
                lambda module, inputs, key=(number, path): shapes.update({key: inputs[0].shape})
            )
    return shapes


@pytest.mark.parametrize(
    "positions", [[6, 6, 6], [0, 0, 0], [3, 0, 5]], ids=["last", "first", "own"]
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "gemma2", "phi3"])
def test_the_state_of_the_pooled_token_stays_what_it_was(family, positions):
    model, places = tiny_model(family), torch.tensor(positions)
    expected = states(model)
    with pooled_token_only(model) as pooled:
        pooled.positions = places
        found = states(model)
        pooled.positions = None
        assert torch.equal(states(model), expected)
    # a shorter product may sum in another order
    torch.testing.assert_close(found[ROWS, places], expected[ROWS, places], rtol=0, atol=1e-5)
    assert (found - expected).abs().max() > 1e-2, "every token was computed"


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_only_the_last_block_is_cut_and_only_from_the_attentions_output_on(family):
    model = tiny_model(family)
    with pooled_token_only(model) as pooled:
        shapes = record_inputs(model)
        pooled.positions = torch.tensor([6, 2, 0])
        states(model)
    assert len(shapes) == 4 * (len(find(model.config).mlp_inputs) + 2)
    for (layer, _), shape in shapes.items():
        assert tuple(shape[:2]) == ((3, 1) if layer == 3 else (3, 7))


def test_a_last_block_without_attention_or_mlp_is_cut_where_it_is_left():
    for drop in (drop_attention, drop_mlp):
        model = tiny_model("llama")
        drop(model, find(model.config), [3])
        expected, places = states(model), torch.tensor([6, 2, 4])
        with pooled_token_only(model) as pooled:
            pooled.positions = places
            found = states(model)
        torch.testing.assert_close(found[ROWS, places], expected[ROWS, places], rtol=0, atol=1e-5)
        assert (found - expected).abs().max() > 1e-2


def test_another_thread_runs_the_model_whole():
    model, found = tiny_model("llama"), []
    expected = states(model)
    with pooled_token_only(model) as pooled:
        pooled.positions = torch.tensor([6, 6, 6])
        thread = Thread(target=lambda: found.append(states(model)))
        thread.start()
        thread.join()
    assert torch.equal(found[0], expected)


def test_what_else_a_projection_is_given_is_passed_on():
    with pooled_token_only(tiny_model("llama")) as pooled:
        pooled.positions = torch.tensor([1, 0])
        hidden, other = torch.arange(12.0).reshape(2, 3, 2), object()
        cut, *rest = pooled(torch.nn.Identity(), (hidden, other))
    assert cut.tolist() == [[[2.0, 3.0]], [[6.0, 7.0]]]
    assert rest == [other]


def test_the_model_is_whole_again_also_after_an_error():
    model = tiny_model("llama")
    expected = states(model)
    with pytest.raises(RuntimeError, match="on the way"), pooled_token_only(model) as pooled:
        pooled.positions = torch.tensor([6, 6, 6])
        raise RuntimeError("on the way")
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(states(model), expected)
