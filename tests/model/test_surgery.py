"""Dropping equals a zeroed output projection and slicing equals masking, in every family."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_model

from effir_integrations.model.families import find
from effir_integrations.model.surgery import (
    check_layers,
    check_some_attention_left,
    drop_attention,
    drop_mlp,
    dropped_attention,
    keep_neurons,
    mlp_widths,
    model_layers,
    projection_shape,
)

KEPT = torch.tensor([1, 5, 7, 30, 47])


def zero_output(model, path, layer):
    projection = model_layers(model, find(model.config))[layer].get_submodule(path)
    with torch.no_grad():
        projection.weight.zero_()
        if projection.bias is not None:
            projection.bias.zero_()


def hidden(model, batch):
    """Last hidden states of the real tokens only: (tokens, hidden)."""
    with torch.inference_mode():
        states = model(**batch)[0]
    return states[batch["attention_mask"].bool()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("sublayer", ["mlp", "attention"])
def test_dropping_equals_a_zeroed_output_projection(family, sublayer, dtype, ragged_batch):
    whole = tiny_model(family).to(dtype)
    architecture = find(whole.config)
    full = hidden(whole, ragged_batch)
    for layer in (0, 1, 3):
        model, zeroed = copy.deepcopy(whole), copy.deepcopy(whole)
        if sublayer == "mlp":
            zero_output(zeroed, architecture.mlp_output, layer)
            drop_mlp(model, architecture, [layer])
        else:
            zero_output(zeroed, architecture.attention_output, layer)
            drop_attention(model, architecture, [layer])
        dropped = hidden(model, ragged_batch)
        assert torch.equal(dropped, hidden(zeroed, ragged_batch)), layer
        assert not torch.equal(dropped, full), f"layer {layer} had no effect: the test is vacuous"


def test_dropping_removes_every_parameter_of_the_sublayer(family):
    model = tiny_model(family)
    architecture = find(model.config)
    layer = model_layers(model, architecture)[1]
    drop_mlp(model, architecture, [1])
    names = [name for name, _ in layer.named_parameters()]
    first = [name for name, _ in model_layers(model, architecture)[0].named_parameters()]
    gone = set(first) - set(names)
    assert any(architecture.mlp_output in name for name in gone)
    assert all(any(path in name for path in architecture.without_mlp) for name in gone)


def mask_other_neurons(model, layer):
    architecture = find(model.config)
    output = model_layers(model, architecture)[layer].get_submodule(architecture.mlp_output)
    other = torch.ones(projection_shape(output)[0], dtype=torch.bool)
    other[KEPT] = False
    with torch.no_grad():
        if isinstance(output, torch.nn.Linear):
            output.weight[:, other] = 0
        else:
            output.weight[other] = 0


def test_slicing_equals_masking(family, ragged_batch):
    model = tiny_model(family).double()
    masked = copy.deepcopy(model)
    full = hidden(model, ragged_batch)
    mask_other_neurons(masked, 2)
    keep_neurons(model, find(model.config), {2: KEPT})
    sliced = hidden(model, ragged_batch)
    # the same products summed in another order by the shorter matrix product: fp64 rounding only
    torch.testing.assert_close(sliced, hidden(masked, ragged_batch), rtol=0, atol=1e-12)
    assert (sliced - full).abs().max() > 1e-3, "the neurons had no effect, so the test is vacuous"
    assert mlp_widths(model, find(model.config)) == [48, 48, 5, 48]


def test_slicing_keeps_the_weights_of_the_kept_neurons_bitwise(family):
    model = tiny_model(family)
    architecture = find(model.config)
    before = copy.deepcopy(model_layers(model, architecture)[0])
    keep_neurons(model, architecture, {0: KEPT})
    after = model_layers(model, architecture)[0]
    for path in architecture.mlp_inputs:
        old, new = before.get_submodule(path), after.get_submodule(path)
        rows = [old.weight, new.weight] if isinstance(old, torch.nn.Linear) else None
        old_rows, new_rows = rows or [old.weight.T, new.weight.T]
        width = old_rows.shape[0] // architecture.fused_inputs
        index = torch.cat([KEPT + block * width for block in range(architecture.fused_inputs)])
        assert torch.equal(new_rows, old_rows[index])
        if old.bias is not None:
            assert torch.equal(new.bias, old.bias[index])


def test_keeping_every_neuron_changes_nothing(family, ragged_batch):
    model = tiny_model(family)
    full = hidden(model, ragged_batch)
    keep_neurons(model, find(model.config), {1: torch.arange(48)})
    assert torch.equal(hidden(model, ragged_batch), full)


def test_surgery_works_on_the_meta_device(family):
    with torch.device("meta"):
        model = tiny_model_on_meta(family)
    architecture = find(model.config)
    drop_mlp(model, architecture, [0])
    drop_attention(model, architecture, [1])
    assert mlp_widths(model, architecture) == [0, 48, 48, 48]
    assert dropped_attention(model, architecture) == [1]


def tiny_model_on_meta(family):
    return type(tiny_model_class(family))(tiny_model_class(family).config)


def tiny_model_class(family):
    with torch.device("cpu"):
        return tiny_model(family)


@pytest.mark.parametrize(
    ("action", "layers", "words"),
    [
        (
            drop_mlp,
            [4],
            "layer 4 is out of range: the model has 4 layers; choose from [0, 1, 2, 3]",
        ),
        (drop_mlp, [-1], "layer -1 is out of range"),
        (drop_mlp, [2, 2], "layer 2 is named twice"),
        (drop_attention, [0, 1, 2, 3], "would leave none"),
    ],
)
def test_impossible_drops_are_refused(action, layers, words):
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=words.replace("[", r"\[").replace("]", r"\]")):
        action(model, find(model.config), layers)


def test_dropping_twice_is_refused():
    model = tiny_model("bert")
    architecture = find(model.config)
    drop_mlp(model, architecture, [1])
    with pytest.raises(ValueError, match=r"layer 1 has no MLP: it was dropped before"):
        drop_mlp(model, architecture, [1])
    drop_attention(model, architecture, [3])
    with pytest.raises(ValueError, match=r"layer 3 has no attention: it was dropped before"):
        drop_attention(model, architecture, [3])


@pytest.mark.parametrize("neurons", [[], [3, 2], [2, 2], [0, 5, 3], [-1, 2], [47, 48]], ids=str)
def test_neurons_that_do_not_fit_are_refused(neurons):
    model = tiny_model("qwen3")
    with pytest.raises(ValueError, match="must be ascending indices below its 48 neurons"):
        keep_neurons(model, find(model.config), {1: torch.tensor(neurons, dtype=torch.int64)})


KINDS = ["bert", "gemma2", "gpt2", "llama", "phi3"]
"""One family of each structure: biases, norms behind branches, Conv1D, gated, fused gates."""


@pytest.mark.parametrize("kind", KINDS)
def test_sliced_projections_are_parts_of_the_old_ones_and_train_as_they_did(kind):
    model = tiny_model(kind).bfloat16()
    architecture = find(model.config)
    layer = model_layers(model, architecture)[0]
    layer.get_submodule(architecture.mlp_inputs[0]).weight.requires_grad_(False)
    before = copy.deepcopy(layer)
    keep_neurons(model, architecture, {0: KEPT})
    for path in (*architecture.mlp_inputs, architecture.mlp_output):
        old, new = before.get_submodule(path), layer.get_submodule(path)
        assert type(new) is type(old)
        linear = isinstance(new, torch.nn.Linear)
        names = ("in_features", "out_features") if linear else ("nx", "nf")
        assert tuple(getattr(new, name) for name in names) == projection_shape(new)
        assert new.weight.dtype == torch.bfloat16
        assert new.weight.requires_grad == (path != architecture.mlp_inputs[0])
        assert new.weight.is_leaf
        assert (new.bias is None) == (old.bias is None)
    old, new = (x.get_submodule(architecture.mlp_output) for x in (before, layer))
    dim = 1 if isinstance(old, torch.nn.Linear) else 0
    assert torch.equal(new.weight, old.weight.index_select(dim, KEPT))
    if old.bias is not None:
        assert torch.equal(new.bias, old.bias)
        assert new.bias.is_leaf and new.bias.requires_grad


def test_slicing_every_neuron_copies_the_weights():
    model = tiny_model("bert")
    architecture = find(model.config)
    output = model_layers(model, architecture)[0].get_submodule(architecture.mlp_output)
    keep_neurons(model, architecture, {0: torch.arange(48)})
    sliced = model_layers(model, architecture)[0].get_submodule(architecture.mlp_output)
    assert sliced.bias.data_ptr() != output.bias.data_ptr()
    assert torch.equal(sliced.bias, output.bias)


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_are_sliced_on_the_meta_device(kind):
    with torch.device("meta"):
        model = tiny_model_on_meta(kind)
    keep_neurons(model, find(model.config), {1: KEPT})
    assert mlp_widths(model, find(model.config)) == [48, 5, 48, 48]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_neurons_of_a_dropped_mlp_are_refused():
    model = tiny_model("llama")
    architecture = find(model.config)
    drop_mlp(model, architecture, [2])
    with pytest.raises(ValueError, match="layer 2 has no MLP: it was dropped before"):
        keep_neurons(model, architecture, {2: KEPT})


def test_layers_may_be_named_in_any_order():
    assert check_layers([3, 0, 1], [0, 1, 3], 4, "MLP") == [0, 1, 3]
    assert check_layers([], [], 4, "MLP") == []
    with pytest.raises(ValueError, match="layer 2 has no MLP"):
        check_layers([3, 2], [0, 1, 3], 4, "MLP")
    with pytest.raises(ValueError, match="layer 1 is named twice for MLP"):
        check_layers([1, 3, 1], [0, 1, 3], 4, "MLP")
    with pytest.raises(ValueError, match="layer 4 is out of range"):
        check_layers([0, 4], [0, 1, 3], 4, "MLP")


def test_one_attention_must_stay_whichever():
    check_some_attention_left([0, 2], [0])
    check_some_attention_left([0, 2], [2, 1])
    with pytest.raises(ValueError, match=r"attention of layers \[0, 2\] would leave none"):
        check_some_attention_left([0, 2], [2, 0])


def test_attention_goes_layer_by_layer_until_one_is_left():
    model = tiny_model("llama")
    architecture = find(model.config)
    drop_attention(model, architecture, [3, 0])
    drop_attention(model, architecture, [1])
    assert dropped_attention(model, architecture) == [0, 1, 3]
    with pytest.raises(ValueError, match=r"layers \[2\] would leave none"):
        drop_attention(model, architecture, [2])
    assert dropped_attention(model, architecture) == [0, 1, 3]
