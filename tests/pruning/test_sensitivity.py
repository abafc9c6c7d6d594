"""Tokens count by how far an error at them moves the text's vector; the model is left as it was."""

from __future__ import annotations

import pytest
import torch
from tiny import KINDS, WORDS, save_bare

from effir_integrations.encoder.encoder import token_batches, transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.families import find
from effir_integrations.model.hooks import evaluation_mode, token_mask
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.surgery import model_layers
from effir_integrations.pruning import sensitivity as module
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.refit import Calibrator
from effir_integrations.pruning.sensitivity import weigh_tokens

TEXTS = [" ".join(WORDS[x] for x in range(start, start + 2 + start)) for start in range(9)]


def weighed(encoder, *, seed=0, texts=TEXTS, **dropped):
    """Return what tokens count for, by (layer, batch), and the batches."""
    model = transformer_model(encoder)
    plan = PruningPlan(base=BaseIdentity.of(model), **dropped)
    batches = list(token_batches(encoder, texts, batch_tokens=64))
    return weigh_tokens(encoder, plan, batches, seed=seed), batches


def jacobian_norms(encoder, batch, output):
    """Return the squared norm of the Jacobian of the vectors by what an MLP adds, by token."""
    added = torch.zeros(*batch["input_ids"].shape, 32, dtype=torch.float64, requires_grad=True)
    handle = output.register_forward_hook(lambda m, a, o: o + added)
    vectors = encoder(dict(batch))["sentence_embedding"]
    handle.remove()
    units = torch.nn.functional.normalize(vectors, dim=-1)
    total = torch.zeros(batch["input_ids"].shape, dtype=torch.float64)
    for column in units.sum(0):
        (gradient,) = torch.autograd.grad(column, added, retain_graph=True)
        total += gradient.square().sum(-1)
    return total[token_mask(batch)]


@pytest.mark.parametrize("family", ["bert", "llama", "gemma2"])
def test_on_average_over_directions_its_square_is_that_of_the_jacobians_norm(family, tmp_path):
    encoder = load(save_bare(family, tmp_path), device="cpu").double()
    draws = [weighed(encoder, seed=seed, texts=TEXTS[:3]) for seed in range(300)]
    model = transformer_model(encoder)
    output = model_layers(model, find(model.config))[1].get_submodule(find(model.config).mlp_output)
    for place, batch in enumerate(draws[0][1]):
        mean = torch.stack([counts[1, place].square() for counts, _ in draws]).double().mean(0)
        exact = jacobian_norms(encoder, batch, output)
        # the mean of 300 draws, each of which is as uncertain as it is large
        torch.testing.assert_close(mean, exact, rtol=0.35, atol=0.02 * float(exact.max()))


@pytest.mark.parametrize("family", KINDS)
def test_every_token_of_every_layer_has_a_count(family, tmp_path):
    encoder = load(save_bare(family, tmp_path), device="cpu")
    counts, batches = weighed(encoder, drop_mlp=(1,), drop_attention=(2,))
    assert {layer for layer, _ in counts} == {0, 2, 3}
    for (_, place), count in counts.items():
        assert count.shape == (int(token_mask(batches[place]).sum()),)
        assert bool(count.isfinite().all())


def test_parts_of_a_batch_count_as_the_batch_does(monkeypatch, tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    whole, _ = weighed(encoder)
    monkeypatch.setattr(module, "_TOKENS", 1)
    parts, _ = weighed(encoder)
    assert whole.keys() == parts.keys()
    for key, count in whole.items():
        # the sums run in another order
        torch.testing.assert_close(parts[key], count, rtol=1e-3, atol=1e-5 * float(count.max()))


def test_modes_and_what_is_trained_are_as_before_and_no_weight_has_a_gradient(tmp_path):
    encoder = load(save_bare("bert", tmp_path), device="cpu").train()
    next(iter(encoder.parameters())).requires_grad_(False)
    before = [weight.requires_grad for weight in encoder.parameters()]
    weighed(encoder)
    assert encoder.training and all(each.training for each in encoder.modules())
    assert [weight.requires_grad for weight in encoder.parameters()] == before
    assert all(weight.grad is None for weight in encoder.parameters())


def test_dropout_does_not_change_what_tokens_count_for(tmp_path):
    encoder = load(save_bare("bert", tmp_path, hidden_dropout_prob=0.5), device="cpu")
    still, _ = weighed(encoder.eval())
    moving, _ = weighed(encoder.train())
    assert all(torch.equal(still[key], moving[key]) for key in still)


def test_gradients_choose_and_fit_other_than_streams_do(tmp_path):
    encoder = load(save_bare("bert", tmp_path), device="cpu")
    plans = {
        way: reconstruct(
            encoder, TEXTS, ReconstructConfig(keep_neurons=0.5, multiple_of=4, count_by=way)
        )
        for way in (None, "gradients", "stream")
    }
    made = {way: plan.outputs[0]["weight"] for way, plan in plans.items() if 0 in plan.outputs}
    assert torch.equal(made[None], made["gradients"])
    assert not made["gradients"].equal(made["stream"])
    recorded = [plan.made_by[-1]["config"]["count_by"] for plan in plans.values()]
    assert recorded == ["gradients", "gradients", "stream"]


def test_layers_on_disk_count_by_their_stream_and_gradients_of_them_are_refused(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu", from_disk=True)
    config = ReconstructConfig(keep_neurons=0.5, multiple_of=4)
    plan = reconstruct(encoder, TEXTS, config)
    assert plan.made_by[-1]["config"]["count_by"] == "stream"
    wanted = ReconstructConfig(keep_neurons=0.5, multiple_of=4, count_by="gradients")
    with pytest.raises(ValueError, match="needs the layers in memory; load the model without"):
        reconstruct(encoder, TEXTS, wanted)


def test_methods_that_fit_nothing_take_no_gradients(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    config = ReconstructConfig(keep_neurons=0.5, multiple_of=4, method="plain")
    assert reconstruct(encoder, TEXTS, config).made_by[-1]["config"]["count_by"] == "stream"
    with pytest.raises(ValueError, match="method='mean' fits nothing that tokens could count in"):
        ReconstructConfig(keep_neurons=0.5, method="mean", count_by="gradients")


def test_an_unknown_way_to_count_is_refused():
    with pytest.raises(ValueError, match="count_by='luck' is not known; choose gradients or strea"):
        ReconstructConfig(keep_neurons=0.5, count_by="luck")


def test_ranking_before_weighing_is_refused(tmp_path):
    from effir_integrations.data.calibration import calibrated

    encoder = load(save_bare("llama", tmp_path), device="cpu")
    run = Calibrator(
        encoder, calibrated(TEXTS), ReconstructConfig(keep_neurons=0.5), show_progress=False
    )
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)))
    with (
        evaluation_mode(transformer_model(encoder)),
        pytest.raises(RuntimeError, match="nothing has weighed them yet"),
    ):
        run.rank(plan, dict.fromkeys(range(4), 48))
