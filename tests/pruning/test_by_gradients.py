"""Gradients say what tokens count for: they are right, they reach the fit, bad input is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from examples import examples, rows, tiny_encoder
from safetensors.torch import load_file
from tiny import KINDS, slow_if_related

from effir_integrations import export
from effir_integrations.data.calibration import Calibration
from effir_integrations.data.training_examples import load_training
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.families import find
from effir_integrations.model.hooks import masked, token_mask
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.surgery import model_layers
from effir_integrations.pruning.by_gradients import pull_of
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.moments import Moments
from effir_integrations.pruning.ranking import rank_together
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.refit import Calibrator
from effir_integrations.pruning.sensitivity import sensitivity
from effir_integrations.pruning.slim import slim
from effir_integrations.pruning.slim_config import SlimConfig

CONFIG = SlimConfig(sparsity=0.4, multiple_of=4, batch_size=8, examples=16)
TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w10"]
COLUMNS = (["w1 w2 w3", "w4"], ["w5 w6", "w7 w8 w9 w10"], ["w2", "w3 w3 w3"])


def projections(encoder) -> dict[int, torch.nn.Module]:
    """Return the output projections of all MLPs."""
    model = transformer_model(encoder)
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    return {x: layer.get_submodule(architecture.mlp_output) for x, layer in enumerate(layers)}


def frozen(family: str, folder: Path, dtype: torch.dtype = torch.float32):
    """Return an encoder as `slim` makes it ready, a plan that drops nothing, and a group."""
    encoder = tiny_encoder(family, folder)
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)))
    transformer_model(encoder).requires_grad_(False).to(dtype)
    encoder.eval()
    return encoder, plan, [dict(encoder.preprocess(column)) for column in COLUMNS]


def in_fp64(vectors: list[torch.Tensor]) -> torch.Tensor:
    """Return InfoNCE at temperature 0.1, written out."""
    queries, *documents = [torch.nn.functional.normalize(x.double(), dim=-1) for x in vectors]
    scores = queries @ torch.cat(documents).T / 0.1
    return -scores.log_softmax(1).diagonal().mean()


@pytest.mark.parametrize("family", ["bert", "llama", "gemma2"])
def test_a_tokens_count_is_the_squared_pull_on_what_its_mlp_adds(
    family: str, tmp_path: Path
) -> None:
    encoder, plan, group = frozen(family, tmp_path, torch.float64)
    counts = sensitivity(encoder, plan, [group], pull_of(0.1))
    assert not any(x.grad is not None for x in transformer_model(encoder).parameters())
    for layer, output in projections(encoder).items():
        added = [torch.zeros(*x["input_ids"].shape, 32, dtype=torch.float64) for x in group]
        leaves = iter([x.requires_grad_(True) for x in added])
        handle = output.register_forward_hook(lambda m, a, o, leaves=leaves: o + next(leaves))
        vectors = [encoder(dict(x))["sentence_embedding"] for x in group]
        handle.remove()
        pulls = torch.autograd.grad(in_fp64(vectors), vectors, retain_graph=True)
        pulls = [pull / pull.norm(dim=-1, keepdim=True) for pull in pulls]
        for place, gradient in enumerate(torch.autograd.grad(vectors, added, pulls)):
            by_hand = gradient[token_mask(group[place])].square().sum(-1)
            assert by_hand.max() > 1e-12
            torch.testing.assert_close(
                counts[layer, place].double(), by_hand, rtol=1e-3, atol=1e-4 * by_hand.max()
            )


def test_the_weights_of_tokens_reach_the_gram_matrix_and_the_widths(tmp_path: Path) -> None:
    encoder, plan, group = frozen("bert", tmp_path)
    counts = sensitivity(encoder, plan, [group], pull_of(0.05))
    texts = Calibration(texts=tuple(sum(COLUMNS, [])), source="texts")
    made = Calibrator(
        encoder, texts, ReconstructConfig(keep_neurons=0.5), False, batches=group, counts=counts
    )
    seen: list[torch.Tensor] = []
    output = projections(encoder)[2]
    with torch.inference_mode():
        handle = output.register_forward_hook(lambda m, a, o: seen.append(a[0]))
        for batch in group:
            encoder(dict(batch))
        handle.remove()
        removals, _ = made.rank(plan, {layer: 48 for layer in range(4)})
    inputs = torch.cat([x[token_mask(b)] for x, b in zip(seen, group, strict=True)])
    weights = torch.cat([counts[2, place] for place in range(len(group))])
    moments = Moments(48, 0, torch.device("cpu"))
    moments.add(inputs, weights)
    assert weights.max() > 2 * weights.min()
    by_hand = rank_together(moments.gram(centred=True), output.weight.double(), 1e-3)
    assert torch.equal(removals[2].order, by_hand.order)
    cost = by_hand.cost * weights.sum().double()
    torch.testing.assert_close(removals[2].cost, cost, rtol=1e-3, atol=1e-6 * float(cost.max()))


@pytest.mark.parametrize("family", [slow_if_related(kind) for kind in KINDS])
def test_gradients_choose_and_refit_in_one_stage(family: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(family, tmp_path)
    base = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(1,))
    plan = slim(encoder, examples(), CONFIG, plan=base)
    assert plan.mlp_widths[1] == 0
    assert abs(sum(plan.mlp_widths) - 0.6 * 3 * 48) <= 2
    assert plan.outputs.keys() == plan.neurons.keys() != set()
    record = plan.made_by[-1]
    assert record["stage"] == "slim" and record["calibration"]["texts"] == 16 * 4
    fresh = tiny_encoder(family, tmp_path)
    with masked(transformer_model(fresh), plan):
        expected = fresh.encode(TEXTS, convert_to_tensor=True)
    sliced = export(fresh, plan, tmp_path / "out").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(sliced, expected, atol=1e-5, rtol=0)


def test_the_same_examples_give_the_same_plan_and_labels_matter(tmp_path: Path) -> None:
    def made(pairs: list[dict]) -> PruningPlan:
        return slim(tiny_encoder("bert", tmp_path), load_training(pairs, negatives=2), CONFIG)

    right = rows()
    wrong = [
        {**row, "pos": other["pos"]}
        for row, other in zip(right, [*right[1:], right[0]], strict=True)
    ]
    first, again, other = made(right), made(right), made(wrong)
    assert first.outputs.keys() == again.outputs.keys()
    for layer, parts in first.outputs.items():
        assert torch.equal(parts["weight"], again.outputs[layer]["weight"])
    assert any(
        not torch.equal(first.neurons[x], other.neurons.get(x, torch.empty(0)))
        for x in first.neurons
    )


def test_examples_that_tell_nothing_apart_are_refused(tmp_path: Path) -> None:
    data = load_training([{"query": "w1 w2", "pos": ["w3"], "neg": []}], negatives=0)
    with pytest.raises(ValueError, match=r"gradients behind the MLP of layer 0 are zero"):
        slim(tiny_encoder("bert", tmp_path), data, CONFIG)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"examples": 0}, "examples=0"),
        ({"ridge": 0.0}, "ridge=0.0"),
        ({"correction": 2.0}, "correction=2.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"train_base": True}, "paper=True"),
    ],
)
def test_settings_of_the_gradients_that_will_not_do_are_refused(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(CONFIG, **change)


def test_a_refitted_plan_is_not_refitted_again(tmp_path: Path) -> None:
    plan = slim(tiny_encoder("bert", tmp_path), examples(), CONFIG)
    with pytest.raises(ValueError, match="is refitted already"):
        reconstruct(tiny_encoder("bert", tmp_path), TEXTS, ReconstructConfig(), plan=plan)


def test_the_papers_gates_need_a_folder_and_are_not_refitted(tmp_path: Path) -> None:
    config = replace(CONFIG, paper=True, steps=2, precision="fp32")
    with pytest.raises(ValueError, match="name a folder"):
        slim(tiny_encoder("bert", tmp_path), examples(), config)
    plan = slim(tiny_encoder("bert", tmp_path), examples(), config, tmp_path / "work")
    assert load_file(tmp_path / "work" / "gates.safetensors") and not plan.outputs
