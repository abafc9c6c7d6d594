"""What is seen of an MLP, and that a model run as if pruned is the pruned model."""

from __future__ import annotations

import pytest
import torch
from tiny import save_bare

from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.families import find
from effir_integrations.model.hooks import NewOutput, capture, evaluation_mode, pruned_forward
from effir_integrations.model.surgery import drop_attention, drop_mlp, keep_neurons, model_layers

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w8", "w9 w10 w11"]


@pytest.fixture
def family(kind):
    """One family of each kind: hooks find their places by the row of the table alone."""
    return kind


@pytest.fixture
def make(tmp_path):
    """Return a function that makes an encoder of a tiny random model, with its table row."""

    def made(family, **options):
        encoder = load(save_bare(family, tmp_path / family, **options), dtype="fp32", device="cpu")
        return encoder, find(transformer_model(encoder).config)

    return made


def batch_of(encoder, texts=TEXTS):
    return dict(encoder.preprocess(texts))


def hidden(encoder, texts=TEXTS):
    """Return the real tokens' last hidden states, (tokens, hidden)."""
    batch = batch_of(encoder, texts)
    with torch.inference_mode():
        mask = batch["attention_mask"].bool()
        return encoder[0](batch)["token_embeddings"][mask]


def hooks(model):
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) for x in model.modules())


def projection(encoder, row, layer):
    return model_layers(transformer_model(encoder), row)[layer].get_submodule(row.mlp_output)


def test_the_output_is_the_projection_of_the_activations_of_real_tokens(family, make):
    encoder, row = make(family)
    batch = batch_of(encoder)
    with evaluation_mode(transformer_model(encoder)):
        seen = capture(encoder, row, batch, [1, 2])
        assert sorted(seen) == [1, 2]
        for layer, parts in seen.items():
            made = projection(encoder, row, layer)(parts.activations)
            torch.testing.assert_close(parts.output, made, rtol=1e-4, atol=1e-5)
            tokens = int(batch["attention_mask"].sum())
            assert parts.activations.shape == (tokens, 48)
            assert parts.stream.shape == parts.output.shape == (tokens, 32)


def test_the_stream_holds_the_mlp_output(family, make):
    encoder, row = make(family)
    batch = batch_of(encoder)
    with evaluation_mode(transformer_model(encoder)):
        full = capture(encoder, row, batch, [1])[1]
        with pruned_forward(transformer_model(encoder), row, drop_mlp=[1]):
            without = capture(encoder, row, batch, [1])[1]
    assert not bool(without.output.any())
    added = full.stream - without.stream
    if row.norms_branches:
        assert bool((added.abs().sum(1) > 0).all())
    else:
        torch.testing.assert_close(added, full.output, rtol=1e-3, atol=1e-4)


def test_padding_changes_nothing_that_is_seen(family, make):
    encoder, row = make(family)
    with evaluation_mode(transformer_model(encoder)):
        alone = capture(encoder, row, batch_of(encoder, TEXTS[1:2]), [2])[2]
        padded = capture(encoder, row, batch_of(encoder, [TEXTS[0], TEXTS[1]]), [2])[2]
    count = len(alone.stream)
    torch.testing.assert_close(padded.activations[-count:], alone.activations, rtol=1e-3, atol=1e-4)


def test_layers_behind_the_last_one_wanted_do_not_run(family, make):
    encoder, row = make(family)
    ran = []
    for index, layer in enumerate(model_layers(transformer_model(encoder), row)):
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    with evaluation_mode(transformer_model(encoder)):
        capture(encoder, row, batch_of(encoder), [1])
    assert ran == [0, 1]


def test_a_model_run_as_if_pruned_gives_what_the_pruned_model_gives(family, make):
    encoder, row = make(family)
    model = transformer_model(encoder)
    kept = torch.tensor([0, 3, 4, 17, 40])
    output = projection(encoder, row, 1)
    weight = output.weight if isinstance(output, torch.nn.Linear) else output.weight.T
    new = NewOutput(neurons=kept, weight=weight.detach()[:, kept], bias=output.bias)
    before = hidden(encoder)
    with pruned_forward(model, row, outputs={1: new}, drop_mlp=[2], drop_attention=[3]):
        masked = hidden(encoder)
    assert torch.equal(hidden(encoder), before)
    keep_neurons(model, row, {1: kept})
    drop_mlp(model, row, [2])
    drop_attention(model, row, [3])
    torch.testing.assert_close(masked, hidden(encoder), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(masked, before, rtol=1e-2, atol=1e-3)


def test_outputs_added_while_the_model_runs_as_if_take_effect(make):
    encoder, row = make("bert")
    outputs = {}
    with pruned_forward(transformer_model(encoder), row, outputs=outputs):
        before = hidden(encoder)
        outputs[0] = NewOutput(
            neurons=torch.tensor([1]), weight=torch.ones(32, 1), bias=torch.ones(32)
        )
        assert not torch.allclose(hidden(encoder), before)


def test_hooks_and_modes_are_put_back_even_after_an_error(make):
    encoder, row = make("llama")
    model = transformer_model(encoder)
    model.train()
    model.get_submodule("layers.1").eval()
    modes, count = [x.training for x in model.modules()], hooks(model)
    with pytest.raises(KeyError), evaluation_mode(model), pruned_forward(model, row, drop_mlp=[0]):
        assert not any(x.training for x in model.modules())
        capture(encoder, row, batch_of(encoder), [1])
        raise KeyError
    assert [x.training for x in model.modules()] == modes
    assert hooks(model) == count


def test_a_model_that_splits_its_mlp_into_chunks_is_refused(make):
    encoder, row = make("bert", chunk_size_feed_forward=1)
    batch = batch_of(encoder, ["w1 w2", "w3 w4"])
    with pytest.raises(ValueError, match="chunk_size_feed_forward=0"):
        capture(encoder, row, batch, [1])


def test_a_layer_that_does_not_run_is_reported(make):
    encoder, row = make("bert")
    layer = model_layers(transformer_model(encoder), row)[1]
    layer.feed_forward_chunk = lambda hidden_states: hidden_states
    with pytest.raises(RuntimeError, match="MLP of layer 1 was not seen in the forward pass"):
        capture(encoder, row, batch_of(encoder), [1])
