"""What a token counts for, what a refit aims at and what a removal costs, against fp64 by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import WORDS, save_bare

from effir_integrations.data.calibration import Calibration
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.hooks import capture, masked
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.moments import Moments
from effir_integrations.pruning.ranking import rank_together
from effir_integrations.pruning.refit import Calibrator

LENGTHS = (2, 5, 11)
LAYER = 2


@pytest.fixture(autouse=True)
def no_gradients():
    """Switch gradients off, as `reconstruct` does."""
    with torch.no_grad():
        yield


def words(lengths):
    """Return random texts of so many words."""
    generator = torch.Generator().manual_seed(3)
    picks = [torch.randint(0, len(WORDS), (n,), generator=generator).tolist() for n in lengths]
    return tuple(" ".join(WORDS[x] for x in row) for row in picks)


def calibrator(family, folder, texts=None, **settings):
    texts = words(LENGTHS) if texts is None else texts
    encoder = load(save_bare(family, folder), device="cpu")
    config = ReconstructConfig(**{"keep_neurons": 0.5, "count_by": "stream", **settings})
    return Calibrator(encoder, Calibration(texts=texts, source="words"), config, False)


def only_batch(made):
    (batch,) = made.batches
    return batch


def moments_at(made, before, layer, kept):
    """Return the moments of a layer behind those that `before` changes."""
    full, narrowed = made.streams(), made.streams()
    for earlier in range(layer):
        made.advance(full, earlier, plan_of(made))
        made.advance(narrowed, earlier, before)
    return made._moments(before, layer, kept, full, narrowed)


def tokens_of(batch):
    """Return the text of each token that is no padding, and how many each text has."""
    mask = batch["attention_mask"].bool()
    return torch.arange(len(mask))[:, None].expand_as(mask)[mask], mask.sum(1)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_text_counts_alike_and_errors_are_in_units_of_the_stream(family, tmp_path):
    made = calibrator(family, tmp_path)
    batch = only_batch(made)
    seen = capture(made.encoder, made.architecture, batch, [LAYER])[LAYER]
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
    full = capture(made.encoder, made.architecture, batch, [LAYER])[LAYER]
    with masked(model, before):
        seen = capture(made.encoder, made.architecture, batch, [LAYER])[LAYER]
    sandwich = made.architecture.norms_branches
    whole, left = (full.output, seen.output) if sandwich else (full.stream, seen.stream)
    assert (whole - left).abs().max() > 1e-3
    target = seen.output.double() + correction * (whole.double() - left.double())
    weights = made.method.count(batch, full).double()
    inputs = seen.activations.double()[:, kept]
    moments = moments_at(made, before, LAYER, kept)
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


def plan_of(made, **dropped):
    return PruningPlan(base=BaseIdentity.of(transformer_model(made.encoder)), **dropped)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_neurons_are_ranked_on_the_stream_that_dropped_sublayers_leave(family, tmp_path):
    made = calibrator(family, tmp_path)
    plan, batch = plan_of(made, drop_mlp=(0,)), only_batch(made)
    removals, means = made.rank(plan, {1: 48, 3: 48})
    assert removals.keys() == means.keys() == {1, 3}
    assert made.tokens == int(batch["attention_mask"].sum())
    with masked(transformer_model(made.encoder), plan):
        seen = capture(made.encoder, made.architecture, batch, [1, 3])
    for layer, parts in seen.items():
        output = made.output(layer)
        counts = made.method.count(batch, parts).double()
        inputs = parts.activations.double()
        mean = counts @ inputs / counts.sum()
        torch.testing.assert_close(means[layer], mean, rtol=1e-5, atol=1e-6)
        about = inputs if output.bias is None else inputs - mean
        gram = (about * counts[:, None]).T @ about / counts.sum()
        expected = rank_together(gram, output.weight.detach().double(), made.config.ridge)
        cost = expected.cost * counts.sum()
        torch.testing.assert_close(removals[layer].cost.sum(), cost.sum(), rtol=1e-3, atol=0)
        assert removals[layer].order.tolist()[:8] == expected.order.tolist()[:8]


def test_batches_do_not_change_what_is_ranked(tmp_path):
    widths = dict.fromkeys(range(4), 48)
    one, many = calibrator("bert", tmp_path), calibrator("bert", tmp_path, batch_tokens=12)
    assert len(one.batches) == 1 < len(many.batches)
    at_once, means = one.rank(plan_of(one), widths)
    in_parts, again = many.rank(plan_of(many), widths)
    assert many.tokens == one.tokens
    assert in_parts.keys() == at_once.keys()
    for layer, removal in at_once.items():
        torch.testing.assert_close(again[layer], means[layer], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            in_parts[layer].cost.sum(), removal.cost.sum(), rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize(("memory", "kept"), [(1.0, 4), (1e-6, 0)], ids=["room", "no room"])
def test_what_ranking_saw_of_the_full_model_is_kept_as_far_as_there_is_room(memory, kept, tmp_path):
    made = calibrator("llama", tmp_path, memory=memory)
    made.rank(plan_of(made), dict.fromkeys(range(4), 48))
    assert len(made._wholes) == kept


@pytest.mark.parametrize(
    ("lengths", "tokens"), [((2, 10, 30), 48), ((2, 10, 29), 47)], ids=["enough", "few"]
)
def test_fewer_tokens_than_neurons_are_warned_of(lengths, tokens, tmp_path, caplog):
    texts = tuple(" ".join(WORDS[:length]) for length in lengths)
    made = calibrator("llama", tmp_path, texts)
    made.rank(plan_of(made), {1: 48})
    assert made.tokens == tokens
    message = "47 calibration tokens are fewer than the 48 neurons of a layer; give more texts"
    expected = [] if tokens == 48 else [("effir_integrations.pruning.refit", message)]
    assert [(record.name, record.getMessage()) for record in caplog.records] == expected


def test_texts_are_cut_and_batched_as_the_settings_say(tmp_path):
    made = calibrator("llama", tmp_path, max_length=8, batch_tokens=8)
    sizes = [int(batch["attention_mask"].sum()) for batch in made.batches]
    # <s>, the words and </s>
    assert sorted(sizes) == [2 + 2, 2 + 5, 8]
    assert made.tokens == sum(sizes)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_a_layer_is_refitted_behind_those_that_are_refitted_before_it(family, tmp_path):
    made = calibrator(family, tmp_path)
    plan = plan_of(made, drop_attention=(0,))
    neurons = {2: torch.arange(0, 48, 2), 1: torch.arange(0, 48, 3)}
    outputs, errors = made.refit(plan, neurons)
    assert list(outputs) == [1, 2] and list(errors) == ["1", "2"]
    first = made._fit(moments_at(made, plan, 1, neurons[1]), 1, neurons[1])
    behind = dataclasses.replace(plan, neurons={1: neurons[1]}, outputs={1: first[0]})
    second = made._fit(moments_at(made, behind, 2, neurons[2]), 2, neurons[2])
    for layer, (parts, error) in {1: first, 2: second}.items():
        assert errors[str(layer)] == error
        assert outputs[layer].keys() == parts.keys()
        assert all(torch.equal(outputs[layer][name], value) for name, value in parts.items())
    assert made.tokens == int(only_batch(made)["attention_mask"].sum())


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_a_refit_is_the_weighted_least_squares_solution_in_the_layers_own_layout(family, tmp_path):
    made = calibrator(family, tmp_path, ridge=1e-9)
    output, kept = made.output(LAYER), torch.arange(0, 48, 12)
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(90, 4, generator=generator), torch.randn(90, 32, generator=generator)
    counts = torch.rand(90, generator=generator) + 0.5
    moments = Moments(4, 32, torch.device("cpu"))
    moments.add(x, counts, y)
    parts, errors = made._fit(moments, LAYER, kept)
    biased = output.bias is not None
    assert parts.keys() == ({"weight", "bias"} if biased else {"weight"})
    columns = torch.cat([x, torch.ones(90, 1)], dim=1) if biased else x
    root = counts.double().sqrt()[:, None]
    best = torch.linalg.lstsq(columns.double() * root, y.double() * root).solution
    linear = isinstance(output, torch.nn.Linear)
    weight = parts["weight"] if linear else parts["weight"].T
    torch.testing.assert_close(weight.double(), best[:4].T, rtol=1e-3, atol=1e-4)
    if biased:
        torch.testing.assert_close(parts["bias"].double(), best[4], rtol=1e-3, atol=1e-4)
    assert all(x.dtype == torch.float32 and x.is_contiguous() for x in parts.values())
    mean = counts.double() @ y.double() / counts.double().sum()
    spread = (counts.double() @ (y.double() - mean).square()).sum()
    old = output.weight[:, kept] if linear else output.weight[kept].T
    plain = x.double() @ old.double().T + (output.bias.double() if biased else 0)
    for name, made_of in {"refitted": columns.double() @ best, "plain": plain}.items():
        missed = (counts.double() @ (made_of - y.double()).square()).sum()
        assert errors[name] == pytest.approx(float(missed / spread), rel=1e-4)


class Judged(Moments):
    """Moments by which a refit errs so many times as much as plain removal."""

    times = 1.0

    def error(self, weight, bias):
        return 0.5 * self.times if weight.dtype == torch.float64 else 0.5


@pytest.mark.parametrize("times", [0.1, 1.0005, 1.002, 3.0, float("nan")])
def test_a_refit_that_is_worse_than_plain_removal_by_more_than_rounding_is_refused(times, tmp_path):
    made = calibrator("llama", tmp_path)
    moments = Judged(2, 32, torch.device("cpu"))
    moments.times = times
    moments.add(torch.randn(9, 2), torch.ones(9), torch.randn(9, 32))
    if times < 1.001:
        _, errors = made._fit(moments, LAYER, torch.arange(2))
        assert errors == {"refitted": 0.5 * times, "plain": 0.5}
        return
    words = rf"refit of layer {LAYER} is worse than plain removal .*raise the ridge \(now "
    with pytest.raises(RuntimeError, match=words):
        made._fit(moments, LAYER, torch.arange(2))


def test_targets_that_are_not_finite_are_refused(tmp_path):
    made = calibrator("llama", tmp_path)
    made.output(LAYER).weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=rf"activations of layer {LAYER} are not finite"):
        moments_at(made, plan_of(made), LAYER, torch.arange(4))
