"""What a token counts for, what a refit aims at and what a removal costs, against fp64 by hand."""

from __future__ import annotations

import pytest
import torch
from tiny import WORDS, save_bare

from effir_integrations.data.calibration import Calibration
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.hooks import look, masked
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.moments import Moments
from effir_integrations.pruning.refit import Calibrator

LENGTHS = (2, 5, 11)
LAYER = 2


def calibrator(family, folder, **settings):
    generator = torch.Generator().manual_seed(3)
    texts = tuple(
        " ".join(WORDS[x] for x in torch.randint(0, len(WORDS), (n,), generator=generator).tolist())
        for n in LENGTHS
    )
    encoder = load(save_bare(family, folder), device="cpu")
    config = ReconstructConfig(**{"keep_neurons": 0.5, **settings})
    return Calibrator(encoder, Calibration(texts=texts, source="words"), config, False)


def only_batch(made):
    (batch,) = made.batches()
    return batch


def tokens_of(batch):
    """Return the text of each token that is no padding, and how many each text has."""
    mask = batch["attention_mask"].bool()
    return torch.arange(len(mask))[:, None].expand_as(mask)[mask], mask.sum(1)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_text_counts_alike_and_errors_are_in_units_of_the_stream(family, tmp_path):
    made = calibrator(family, tmp_path)
    batch = only_batch(made)
    seen = look(made.encoder, made.architecture, batch, [LAYER])[LAYER]
    texts, lengths = tokens_of(batch)
    assert len(set(lengths.tolist())) == len(LENGTHS)
    stream = seen.stream.double()
    spread = (stream - stream.mean(1, keepdim=True)).square().mean(1)
    assert spread.max() > 1.01 * spread.min()
    counts = made.method.count(batch, seen).double() * spread
    torch.testing.assert_close(counts, 1 / lengths[texts].double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["bert", "llama", "gemma2"])
@pytest.mark.parametrize("correction", [0.0, 0.25, 1.0])
def test_a_refit_aims_at_the_output_and_a_share_of_what_earlier_layers_lost(
    family, correction, tmp_path
):
    made = calibrator(family, tmp_path, correction=correction)
    model, batch, kept = transformer_model(made.encoder), only_batch(made), torch.arange(0, 48, 3)
    before = PruningPlan(base=BaseIdentity.of(model), drop_mlp=(0,))
    full = look(made.encoder, made.architecture, batch, [LAYER])[LAYER]
    with masked(model, before):
        seen = look(made.encoder, made.architecture, batch, [LAYER])[LAYER]
    sandwich = made.architecture.norms_branches
    whole, left = (full.output, seen.output) if sandwich else (full.stream, seen.stream)
    assert (whole - left).abs().max() > 1e-3
    target = seen.output.double() + correction * (whole.double() - left.double())
    weights = made.method.count(batch, full).double()
    inputs = seen.activations.double()[:, kept]
    moments = made._moments(before, LAYER, kept)
    torch.testing.assert_close(
        moments._yx, (target * weights[:, None]).T @ inputs, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(moments._y, weights @ target, rtol=1e-4, atol=1e-5)


def test_what_a_removal_costs_grows_with_the_tokens_it_is_summed_over(tmp_path):
    """The cost of the first removal is the weighted squared error of all tokens, best refitted."""
    made = calibrator("llama", tmp_path, ridge=1e-6)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(200, 48, generator=generator)
    inputs[:, 7] = 0.1 * inputs[:, 7]
    weight = torch.rand(200, generator=generator) + 0.5
    output = made.output(LAYER)
    once, twice = (Moments(48, 0, torch.device("cpu")) for _ in range(2))
    for moments, times in ((once, 1), (twice, 2)):
        for _ in range(times):
            moments.add(inputs, weight)
    weights = output.weight.detach().double()
    removals = [
        made.method.removal(moments, weights, bias=False, ridge=made.config.ridge)
        for moments in (once, twice)
    ]
    costs = [removal.cost.double() for removal in removals]
    torch.testing.assert_close(costs[1], 2 * costs[0], rtol=1e-6, atol=0)
    first = int(removals[0].order[0])
    rows = inputs.double() * weight.double().sqrt()[:, None]
    others = [x for x in range(48) if x != first]
    best = torch.linalg.lstsq(rows[:, others], rows[:, first]).solution
    lost = (rows[:, first] - rows[:, others] @ best).square().sum()
    expected = lost * output.weight.double()[:, first].square().sum()
    torch.testing.assert_close(costs[0][0], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_mean_goes_on_top_of_the_models_own_bias(family, tmp_path):
    made = calibrator(family, tmp_path, method="mean")
    output = made.output(LAYER)
    if output.bias is not None:
        torch.nn.init.normal_(output.bias)
    means = torch.randn(48, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    kept = torch.arange(0, 48, 2)
    gone = torch.arange(1, 48, 2)
    expected = output.weight.double()[:, gone] @ means[gone]
    if output.bias is not None:
        expected = expected + output.bias.double()
    (parts,) = made.mean_outputs({LAYER: kept}, {LAYER: means}).values()
    torch.testing.assert_close(parts["bias"].double(), expected, rtol=1e-5, atol=1e-6)
