"""Neurons go by a global ranking, and the refit brings the base's outputs back."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tiny import KINDS, WORDS, in_full, save_bare

from effir_integrations.data.calibration import Calibration
from effir_integrations.encoder.encoder import token_batches, transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.apply import apply
from effir_integrations.model.families import find
from effir_integrations.model.hooks import masked
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.surgery import model_layers
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.methods import METHODS
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.refit import Calibrator


def sentences(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 30, (count,), generator=generator).tolist()
    picks = [torch.randint(0, len(WORDS), (n,), generator=generator).tolist() for n in lengths]
    return tuple(" ".join(WORDS[pick] for pick in row) for row in picks)


@pytest.fixture(scope="module")
def calibration():
    return Calibration(texts=sentences(48), source="words")


def tiny_encoder(family, folder, **options):
    return load(save_bare(family, folder, **options), device="cpu")


def half(method="reconstruct", **options):
    return ReconstructConfig(**{"keep_neurons": 0.5, "multiple_of": 4, "method": method, **options})


def stream_error(encoder, plan, texts):
    """Relative squared error of the last hidden states against the base's, on new texts."""
    model = transformer_model(encoder)
    batch = encoder.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    real = batch["attention_mask"].bool()
    with torch.inference_mode():
        full = model(**batch)[0][real]
        with masked(model, plan):
            pruned = model(**batch)[0][real]
    return float((full - pruned).square().sum() / (full - full.mean(0)).square().sum())


def vector_error(encoder, plan, texts):
    """Relative squared error of the texts' vectors of length one against the base's."""
    with masked(transformer_model(encoder), plan):
        pruned = encoder.encode(list(texts), normalize_embeddings=True, convert_to_tensor=True)
    full = encoder.encode(list(texts), normalize_embeddings=True, convert_to_tensor=True)
    return float((full - pruned).square().sum() / (full - full.mean(0)).square().sum())


@pytest.mark.parametrize(
    ("count_by", "error"), [("stream", stream_error), ("gradients", vector_error)]
)
def test_refitting_beats_plain_removal_on_unseen_texts(
    count_by, error, family, calibration, tmp_path
):
    encoder = tiny_encoder(family, tmp_path)
    unseen = sentences(16, seed=1)
    counted = {"reconstruct": {"count_by": count_by}}
    errors = {
        method: error(
            encoder,
            reconstruct(encoder, calibration, half(method, **counted.get(method, {}))),
            unseen,
        )
        for method in METHODS
    }
    assert errors["reconstruct"] < 0.9 * errors["plain"]
    assert errors["reconstruct"] < errors["mean"]


@in_full(*KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_share_is_met_and_the_encoder_is_not_changed(family, method, calibration, tmp_path):
    encoder = tiny_encoder(family, tmp_path)
    model = transformer_model(encoder)
    before = copy.deepcopy(model.state_dict())
    plan = reconstruct(encoder, calibration, half(method))
    assert sum(plan.mlp_widths) == 4 * 24
    assert all(width % 4 == 0 and width > 0 for width in plan.mlp_widths)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not any(module._forward_hooks for module in model.modules())


@in_full(*KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_sliced_model_equals_the_masked_base(family, method, calibration, tmp_path):
    encoder = tiny_encoder(family, tmp_path)
    model = transformer_model(encoder)
    plan = reconstruct(encoder, calibration, half(method))
    batch = encoder.tokenizer(list(sentences(5)), padding=True, return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    real = batch["attention_mask"].bool()
    with torch.inference_mode():
        with masked(model, plan):
            expected = model(**batch)[0][real]
        sliced = apply(model, plan)(**batch)[0][real]
    # shorter sums are added in another order: fp32 rounding, grown by four layers
    torch.testing.assert_close(sliced, expected, rtol=1e-3, atol=1e-4)


def test_neurons_that_repeat_others_go_first_and_cost_nothing(calibration, tmp_path):
    """Each neuron of layer 1 is there twice: half of them can go without any error."""
    encoder = tiny_encoder("bert", tmp_path)
    layer = model_layers(transformer_model(encoder), find(transformer_model(encoder).config))[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[24:] = layer.intermediate.dense.weight[:24]
        layer.intermediate.dense.bias[24:] = layer.intermediate.dense.bias[:24]
    plan = reconstruct(
        encoder, calibration, half(keep_neurons=0.875, multiple_of=24, correction=0.0)
    )
    assert plan.mlp_widths == (48, 24, 48, 48)
    assert sorted(int(kept) % 24 for kept in plan.neurons[1]) == list(range(24))
    assert stream_error(encoder, plan, sentences(8, seed=2)) < 1e-5


def test_padding_and_batching_do_not_change_the_plan(calibration, tmp_path):
    encoder = tiny_encoder("qwen3", tmp_path)
    plans = [
        reconstruct(encoder, calibration, half(batch_tokens=tokens)) for tokens in (32, 100_000)
    ]
    assert plans[0].mlp_widths == plans[1].mlp_widths
    for layer, kept in plans[0].neurons.items():
        assert torch.equal(kept, plans[1].neurons[layer])
        first, second = (plan.outputs[layer]["weight"] for plan in plans)
        # the sums run in another order
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bert", "gpt_neox", "gemma2"])
def test_it_works_on_what_dropping_leaves(family, calibration, tmp_path):
    encoder = tiny_encoder(family, tmp_path)
    base = BaseIdentity.of(transformer_model(encoder))
    dropped = PruningPlan(
        base=base, drop_mlp=(2,), drop_attention=(1,), made_by=({"stage": "drop"},)
    )
    plan = reconstruct(encoder, calibration, half(), plan=dropped)
    assert plan.mlp_widths[2] == 0
    assert sum(plan.mlp_widths) == 3 * 24
    assert plan.drop_attention == (1,)
    assert [entry["stage"] for entry in plan.made_by] == ["drop", "reconstruct"]
    unseen = sentences(8, seed=3)
    plain = reconstruct(encoder, calibration, half("plain"), plan=dropped)
    assert vector_error(encoder, plan, unseen) < vector_error(encoder, plain, unseen)
    by_stream = reconstruct(encoder, calibration, half(count_by="stream"), plan=dropped)
    assert stream_error(encoder, by_stream, unseen) < stream_error(encoder, plain, unseen)


def test_families_without_output_bias_get_one_from_mean_alone(calibration, tmp_path):
    encoder = tiny_encoder("llama", tmp_path)
    assert not reconstruct(encoder, calibration, half()).adds_output_bias
    assert reconstruct(encoder, calibration, half("mean")).adds_output_bias


def test_bf16_models_are_refitted_with_finite_weights(calibration, tmp_path):
    encoder = load(save_bare("mistral", tmp_path), device="cpu", dtype="bf16")
    plan = reconstruct(encoder, calibration, half())
    for parts in plan.outputs.values():
        assert parts["weight"].dtype == torch.float32
        assert bool(parts["weight"].isfinite().all())


def test_the_plan_records_how_it_was_made(calibration, tmp_path):
    plan = reconstruct(tiny_encoder("bert", tmp_path), calibration, half())
    entry = plan.made_by[-1]
    assert entry["config"]["keep_neurons"] == 0.5
    assert entry["calibration"]["sha256"] == calibration.sha256
    assert entry["calibration"]["tokens"] > 48
    for errors in entry["relative_errors"].values():
        assert 0 <= errors["refitted"] <= errors["plain"]


def test_a_finer_multiple_meets_the_share_exactly(calibration, tmp_path):
    plan = reconstruct(
        tiny_encoder("bert", tmp_path), calibration, half(keep_neurons=0.3, multiple_of=1)
    )
    assert sum(plan.mlp_widths) == round(0.3 * 4 * 48)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keep_neurons": 0.0}, "must lie above 0 and be at most 1"),
        ({"keep_neurons": 1.5}, "must lie above 0 and be at most 1"),
        ({"keep_neurons": float("nan")}, "keep_neurons=nan is not allowed; give a finite number"),
        ({"method": "magic"}, "choose reconstruct, mean, plain"),
        ({"ridge": 0.0}, "must lie above 0"),
        ({"correction": 1.5}, "must lie from 0 to 1"),
        ({"multiple_of": 0}, "must be at least 1"),
        ({"memory": -1.0}, "memory=-1.0 must be 0 GiB or more"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, words):
    with pytest.raises(ValueError, match=words):
        ReconstructConfig(**{"keep_neurons": 0.5, **settings})


def test_impossible_requests_are_refused(calibration, tmp_path):
    encoder = tiny_encoder("bert", tmp_path / "a")
    base = BaseIdentity.of(transformer_model(encoder), "first")
    with pytest.raises(ValueError, match="multiple_of=64 is more than the 48 neurons of layer 0"):
        reconstruct(encoder, calibration, half(multiple_of=64))
    with pytest.raises(ValueError, match="fewer than min_width"):
        reconstruct(encoder, calibration, half(keep_neurons=0.1, min_width=24))
    everything = PruningPlan(base=base, drop_mlp=(0, 1, 2, 3))
    with pytest.raises(ValueError, match="no MLP is left"):
        reconstruct(encoder, calibration, half(), plan=everything)
    narrowed = PruningPlan(base=base, neurons={1: torch.arange(8)})
    with pytest.raises(ValueError, match="narrows MLPs already"):
        reconstruct(encoder, calibration, half(), plan=narrowed)
    other = tiny_encoder("bert", tmp_path / "b", seed=4)
    with pytest.raises(ValueError, match="made for first, but the weights"):
        reconstruct(other, calibration, half(), plan=PruningPlan(base=base, drop_mlp=(1,)))


def test_activations_that_are_not_finite_are_refused(calibration, tmp_path):
    encoder = tiny_encoder("bert", tmp_path)
    model = transformer_model(encoder)
    with torch.no_grad():
        model_layers(model, find(model.config))[2].intermediate.dense.bias[3] = float("inf")
    with pytest.raises(ValueError, match="activations of layer 2 are not finite"):
        reconstruct(encoder, calibration, half(count_by="stream"))
    with pytest.raises(ValueError, match="gradients behind the MLP .* not finite; load the model"):
        reconstruct(encoder, calibration, half())


def layer_runs(encoder, texts, **settings):
    """Return how often a layer of the model runs in one call."""
    model = transformer_model(encoder)
    ran = []
    for layer in model_layers(model, find(model.config)):
        layer.self_attn.register_forward_hook(lambda *_: ran.append(1))
    reconstruct(encoder, texts, half(**settings))
    return len(ran)


@pytest.mark.parametrize(("count_by", "most"), [("stream", 3), ("gradients", 4)])
def test_runs_of_layers_grow_with_depth_and_not_with_its_square(
    count_by, most, calibration, tmp_path
):
    """One to weigh, one to rank, one to refit, one behind it; once more for one text, to check."""
    runs = {}
    for depth in (4, 8):
        encoder = tiny_encoder("llama", tmp_path / str(depth), num_hidden_layers=depth)
        batches = len(list(token_batches(encoder, calibration.texts, batch_tokens=200)))
        ran = layer_runs(encoder, calibration.texts, batch_tokens=200, count_by=count_by)
        runs[depth] = ran / batches
    assert batches > 3
    assert runs[4] <= most * 4 and runs[8] <= most * 8
    assert runs[8] <= 2.2 * runs[4]


@pytest.mark.parametrize("dropped", [{}, {"drop_mlp": (1,), "drop_attention": (0,)}], ids=str)
@pytest.mark.parametrize("family", ["llama", "mpnet", "gemma2"])
@pytest.mark.parametrize("memory", [0.0, 5e-5], ids=["none", "streams only"])
def test_a_small_budget_of_memory_gives_the_same_plan(
    family, memory, dropped, calibration, tmp_path
):
    encoder = tiny_encoder(family, tmp_path)
    start = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), **dropped)
    plans = [
        reconstruct(encoder, calibration, half(batch_tokens=200, memory=size), plan=start)
        for size in (4.0, memory)
    ]
    for layer, kept in plans[0].neurons.items():
        assert torch.equal(kept, plans[1].neurons[layer])
        for name, values in plans[0].outputs[layer].items():
            assert torch.equal(values, plans[1].outputs[layer][name])


def test_layers_that_do_not_go_on_from_each_other_are_told_with_the_family(calibration, tmp_path):
    encoder = tiny_encoder("llama", tmp_path)
    run = Calibrator(encoder, calibration, half(count_by="stream"), False)
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)))
    with torch.inference_mode():
        streams = run.streams()
        for layer in (0, 1):
            run.advance(streams, layer, plan)
        run._check_streams(streams, 1, plan)
        streams[0] = dataclasses.replace(streams[0], hidden=-streams[0].hidden)
        with pytest.raises(RuntimeError, match="layers of this llama model .* behind layer 1"):
            run._check_streams(streams, 1, plan)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_texts_of_one_token_are_enough_to_fit_on(family, tmp_path):
    encoder = tiny_encoder(family, tmp_path)
    plan = reconstruct(encoder, ["w1", "w2", "w3"], half())
    assert sum(plan.mlp_widths) == 4 * 24
    assert all(x.isfinite().all() for parts in plan.outputs.values() for x in parts.values())
