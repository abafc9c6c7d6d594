"""A fresh model gets its config's shape; gates, biases and dtypes go on and come off again."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model
from transformers.pytorch_utils import Conv1D

from effir_integrations.model.families import find
from effir_integrations.model.surgery import (
    NoSublayer,
    add_gate,
    add_output_bias,
    dropped_attention,
    find_projection,
    gate_neurons,
    mlp_widths,
    model_layers,
    new_projection,
    parameter_count,
    projection_shape,
    remove_gate,
    reshape,
    restore_dtypes,
    widen,
)

KINDS = ["bert", "gemma2", "gpt2", "llama", "phi3"]
"""One family of each structure: biases, norms behind branches, Conv1D, gated, fused gates."""


def on_meta(kind):
    model = tiny_model(kind)
    with torch.device("meta"):
        return type(model)(model.config)


@pytest.mark.parametrize("pair", [False, True], ids=["mlp", "attention"])
def test_a_stand_in_adds_one_exact_zero_of_the_streams_kind(pair):
    stream = torch.full((2, 3, 4), float("nan"), dtype=torch.bfloat16)
    for found in (
        NoSublayer(pair)(stream, "more", mask=None),
        NoSublayer(pair=pair)(hidden_states=stream),
    ):
        zero, *rest = found if pair else (found,)
        assert rest == ([None] if pair else [])
        assert zero.shape == () and zero.dtype == torch.bfloat16 and float(zero) == 0
    assert not NoSublayer().pair


class Shape:
    """What a config says of a pruned model's shape."""

    def __init__(self, **given):
        self.mlp_widths = given.get("mlp_widths")
        self.dropped_attention = given.get("dropped_attention")
        self.mlp_gates = given.get("mlp_gates", False)
        self.mlp_output_bias = given.get("mlp_output_bias", False)


def outputs_of(model):
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    return [find_projection(layer, architecture.mlp_output) for layer in layers]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_model_gets_the_shape_that_its_config_names(kind):
    model = tiny_model(kind).bfloat16()
    architecture = find(model.config)
    before = outputs_of(model)
    reshape(model, architecture, Shape(mlp_widths=[48, 0, 6, 48], dropped_attention=[1, 2]))
    assert mlp_widths(model, architecture) == [48, 0, 6, 48]
    assert dropped_attention(model, architecture) == [1, 2]
    after = outputs_of(model)
    assert after[0] is before[0] and after[3] is before[3]
    assert not hasattr(after[2], "neuron_gate")
    assert type(after[2]) is type(before[2])
    assert projection_shape(after[2]) == (6, 32)
    assert (after[2].bias is None) == (before[2].bias is None)
    narrowed, whole = (model_layers(model, architecture)[layer] for layer in (2, 0))
    for path in architecture.mlp_inputs:
        new, old = narrowed.get_submodule(path), whole.get_submodule(path)
        assert projection_shape(new) == (32, 6 * architecture.fused_inputs)
        assert (new.bias is None) == (old.bias is None)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    states = model(input_ids=torch.tensor([[5, 6, 7]]))[0]
    assert states.shape == (1, 3, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_on_the_meta_device_is_shaped_there(kind):
    model = on_meta(kind)
    given = Shape(mlp_widths=[48, 0, 6, 48], mlp_output_bias=True, mlp_gates=True)
    reshape(model, find(model.config), given)
    assert mlp_widths(model, find(model.config)) == [48, 0, 6, 48]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_config_that_names_no_shape_leaves_a_model_alone():
    model = tiny_model("llama")
    before = dict(model.named_modules())
    reshape(model, find(model.config), Shape())
    after = dict(model.named_modules())
    assert after.keys() == before.keys()
    assert all(after[name] is module for name, module in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_output_that_is_left_gets_a_bias_where_the_config_has_them(kind):
    model = tiny_model(kind)
    given = Shape(mlp_widths=[48, 0, 6, 48], mlp_output_bias=True)
    reshape(model, find(model.config), given)
    assert mlp_widths(model, find(model.config)) == [48, 0, 6, 48]
    outputs = [output for output in outputs_of(model) if output is not None]
    assert [output.bias.shape for output in outputs] == [(32,)] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_output_that_is_left_gets_gates_where_the_config_has_them(kind):
    model = tiny_model(kind).bfloat16()
    reshape(model, find(model.config), Shape(mlp_widths=[48, 0, 6, 48], mlp_gates=True))
    gates = [output.neuron_gate for output in outputs_of(model) if output is not None]
    assert [gate.tolist() for gate in gates] == [[1.0] * 48, [1.0] * 6, [1.0] * 48]
    assert all(gate.dtype == torch.float32 and gate.requires_grad for gate in gates)


@pytest.mark.parametrize("widths", [[48] * 3, [48] * 5], ids=["few", "many"])
def test_widths_that_are_not_one_a_layer_are_refused(widths):
    model = tiny_model("llama")
    words = rf"mlp_widths has {len(widths)} entries but the model has 4 layers; config.json must"
    with pytest.raises(ValueError, match=words):
        reshape(model, find(model.config), Shape(mlp_widths=widths))


def test_a_gate_is_felt_in_fp32_and_rounded_once():
    output = torch.nn.Linear(3, 2).bfloat16()
    add_gate(output)
    with torch.no_grad():
        output.neuron_gate.copy_(torch.tensor([1.0035, 0.5, -2.0]))
    activations = torch.tensor([[300.0, -3.0, 7.0]], dtype=torch.bfloat16)
    gated, other = gate_neurons(output, (activations, "other"))
    assert gated.dtype == torch.bfloat16 and other == "other"
    expected = activations.double() * torch.tensor([1.0035, 0.5, 0.0]).double()
    assert torch.equal(gated, expected.bfloat16())
    assert gated.tolist() == [[302.0, -1.5, 0.0]], "of a gate that bf16 rounds to 1.0"
    found = output(activations)
    output.neuron_gate.requires_grad_(False)
    remove_gate(output)
    assert torch.equal(output(expected.bfloat16()), found)


def test_taking_a_gate_off_leaves_other_hooks_alone():
    output, seen = torch.nn.Linear(3, 2), []
    output.register_forward_pre_hook(lambda module, inputs: seen.append("first"))
    add_gate(output)
    output.register_forward_pre_hook(lambda module, inputs: seen.append("last"))
    with torch.no_grad():
        output.neuron_gate.zero_()
    assert torch.equal(output(torch.ones(1, 3))[0], output.bias)
    remove_gate(output)
    assert dict(output.named_parameters()).keys() == {"weight", "bias"}
    assert not torch.equal(output(torch.ones(1, 3))[0], output.bias)
    assert seen == ["first", "last"] * 2


def test_a_gate_lies_where_its_projection_does():
    output = torch.nn.Linear(3, 2, device="meta")
    add_gate(output)
    assert output.neuron_gate.is_meta and output.neuron_gate.shape == (3,)


def test_parameters_are_widened_and_given_their_dtypes_back_bit_for_bit():
    model = tiny_model("llama").bfloat16()
    model.norm.float()
    model.rotary_emb.inv_freq = model.rotary_emb.inv_freq.double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dtypes = widen(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.rotary_emb.inv_freq.dtype == torch.float64
    assert dtypes.keys() == dict(model.named_parameters()).keys()
    restore_dtypes(model, dtypes)
    after = model.state_dict()
    assert {value.dtype for value in after.values()} == {torch.bfloat16, torch.float32}
    for name, value in before.items():
        assert after[name].dtype == value.dtype and torch.equal(after[name], value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_without_a_bias_gets_one_of_zeros_and_others_keep_theirs(kind):
    model = tiny_model(kind).bfloat16()
    architecture = find(model.config)
    (before, *_), layer = outputs_of(model), model_layers(model, architecture)[0]
    old = None if before.bias is None else before.bias.clone()
    add_output_bias(layer, architecture)
    bias = outputs_of(model)[0].bias
    assert bias.dtype == torch.bfloat16 and bias.shape == (32,) and bias.requires_grad
    assert torch.equal(bias, torch.zeros_like(bias) if old is None else old)


def test_a_tied_parameter_counts_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 2))
    assert parameter_count(model) == 6 + 6 + 2
    model[1].weight = model[0].weight
    assert parameter_count(model) == 6 + 2


@pytest.mark.parametrize("bias", [True, False])
def test_a_new_projection_is_of_the_kind_dtype_and_place_of_the_old_one(bias):
    old = torch.nn.Linear(3, 2).double()
    new = new_projection(old, 5, 4, bias, "meta")
    assert projection_shape(new) == (5, 4) and (new.bias is not None) == bias
    assert new.weight.dtype == torch.float64 and new.weight.is_meta
    conv = new_projection(Conv1D(2, 3).double(), 5, 4, bias, "cpu")
    assert type(conv) is Conv1D and projection_shape(conv) == (5, 4)
    assert conv.weight.dtype == conv.bias.dtype == torch.float64
