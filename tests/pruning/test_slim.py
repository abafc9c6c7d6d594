"""Gates: their gradient, their precision, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from examples import examples, tiny_encoder
from safetensors.torch import load_file
from tiny import KINDS, in_few, tiny_model
from transformers import AutoModel

from effir_integrations import export, load
from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.apply import apply
from effir_integrations.model.hooks import masked
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.slim import GATES_FILE, slim
from effir_integrations.pruning.slim_config import SlimConfig
from effir_integrations.training.losses import LossTerms, RetrievalLoss

QUICK = SlimConfig(
    paper=True, steps=3, batch_size=8, multiple_of=4, sparsity=0.4, precision="fp32", warmup=0
)
TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w10"]


def gates_of(model) -> dict[str, torch.nn.Parameter]:
    return {name: x for name, x in model.named_parameters() if name.endswith("neuron_gate")}


def gated(family: str, **options):
    model = tiny_model(family, **options)
    return apply(model, PruningPlan(base=BaseIdentity.of(model), drop_mlp=(1,)), gates=True)


def test_open_gates_change_nothing_and_a_closed_one_removes_its_neuron(
    family: str, ragged_batch: dict[str, torch.Tensor]
) -> None:
    base = tiny_model(family)
    plan = PruningPlan(base=BaseIdentity.of(base), drop_mlp=(1,))
    with torch.no_grad(), masked(base, plan):
        full = base(**ragged_batch).last_hidden_state
    kept = torch.arange(1, 48)
    with torch.no_grad(), masked(base, replace(plan, neurons={2: kept})):
        without = base(**ragged_batch).last_hidden_state
    model = gated(family)
    gates = gates_of(model)
    assert len(gates) == 3
    with torch.no_grad():
        assert torch.equal(model(**ragged_batch).last_hidden_state, full)
        next(gate for name, gate in gates.items() if ".2." in name)[0] = -0.3
        closed = model(**ragged_batch).last_hidden_state
    assert (full - without).abs().max() > 1e-4
    torch.testing.assert_close(closed, without, atol=1e-5, rtol=1e-4)


def test_gated_checkpoints_reload_exactly_and_in_fp32(family: str, tmp_path: Path) -> None:
    model = gated(family)
    with torch.no_grad():
        for gate in gates_of(model).values():
            gate.uniform_(-0.2, 1.3)
    model.save_pretrained(tmp_path)
    ids = torch.randint(4, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    same = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(same(ids).last_hidden_state, model(ids).last_hidden_state)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    weights = {x.dtype for name, x in half.named_parameters() if "neuron_gate" not in name}
    assert weights == {torch.bfloat16}
    for name, gate in gates_of(half).items():
        assert gate.dtype == torch.float32
        assert torch.equal(gate, model.get_parameter(name))


def test_gates_that_a_checkpoint_lacks_are_open(tmp_path: Path) -> None:
    model = gated("bert")
    state = {name: x for name, x in model.state_dict().items() if "neuron_gate" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    for gate in gates_of(AutoModel.from_pretrained(tmp_path)).values():
        assert torch.equal(gate, torch.ones_like(gate))


# RMSNorm computes in fp32 whatever the dtype, so its families need wide steps: 1e-7 of rounding
# over a step of 1e-5 would be all noise
@pytest.mark.parametrize(
    ("family", "step", "tolerance"),
    [("bert", 1e-5, 1e-6), ("gpt2", 1e-5, 1e-6), ("qwen3", 5e-3, 1e-2), ("phi3", 5e-3, 1e-2)],
)
def test_a_gates_gradient_equals_the_finite_difference(
    family: str, step: float, tolerance: float, tmp_path: Path
) -> None:
    encoder = tiny_encoder(family, tmp_path)
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)))
    encoder[0].model = apply(transformer_model(encoder), plan, gates=True).double()
    encoder.eval()
    gates = gates_of(transformer_model(encoder))
    columns = [
        encoder.preprocess([f"w{column} w{row} w{row + column}" for row in range(4)])
        for column in range(3)
    ]
    terms = LossTerms(temperature=0.1, gate_weight=1e-3)
    loss = RetrievalLoss(encoder, terms, gates=list(gates.values()))

    def value() -> torch.Tensor:
        return torch.stack(list(loss([dict(column) for column in columns]).values())).sum()

    value().backward()
    for gate in gates.values():
        assert gate.dtype == torch.float64
        for neuron in (0, 17):
            with torch.no_grad():
                gate[neuron] += step
                above = value()
                gate[neuron] -= 2 * step
                below = value()
                gate[neuron] += step
            difference = (above - below) / (2 * step)
            assert gate.grad[neuron].abs() > 1e-9
            torch.testing.assert_close(
                gate.grad[neuron], difference, atol=tolerance * 0.1, rtol=tolerance
            )


@in_few(*KINDS)
def test_masked_equals_sliced_after_slimming(family: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(family, tmp_path)
    base = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(1,))
    plan = slim(encoder, examples(), QUICK, tmp_path / "slim", plan=base)
    assert sum(plan.mlp_widths) <= 0.6 * 3 * 48 + 4
    assert plan.mlp_widths[1] == 0
    fresh = tiny_encoder(family, tmp_path)
    full = fresh.encode(TEXTS, convert_to_tensor=True)
    with masked(transformer_model(fresh), plan):
        expected = fresh.encode(TEXTS, convert_to_tensor=True)
    sliced = export(fresh, plan, tmp_path / "out").encode(TEXTS, convert_to_tensor=True)
    assert (full - expected).abs().max() > 1e-3
    torch.testing.assert_close(sliced, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_gates_of_a_bf16_model_move_by_less_than_bf16_can_tell(
    precision: str, tmp_path: Path
) -> None:
    encoder = tiny_encoder("qwen3", tmp_path, dtype="bf16")
    config = replace(QUICK, gate_learning_rate=1e-4, precision=precision)
    slim(encoder, examples(), config, tmp_path / "slim")
    gates = torch.cat(list(load_file(tmp_path / "slim" / GATES_FILE).values()))
    assert gates.dtype == torch.float32
    assert (gates != 1).float().mean() > 0.9
    # every one of these moves is lost when the gates are rounded to bf16
    assert bool((gates.to(torch.bfloat16) == 1).all())


def test_only_gates_train_unless_the_base_does(tmp_path: Path) -> None:
    before = transformer_model(tiny_encoder("bert", tmp_path)).state_dict()
    encoder = tiny_encoder("bert", tmp_path)
    slim(encoder, examples(), QUICK, tmp_path / "slim")
    after = transformer_model(encoder).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_trained_base_is_written_and_the_plan_is_for_it(tmp_path: Path) -> None:
    encoder = tiny_encoder("bert", tmp_path)
    base = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(0,))
    config = replace(QUICK, train_base=True, learning_rate=1e-3)
    plan = slim(encoder, examples(), config, tmp_path / "slim", plan=base)
    assert plan.base.name == str(tmp_path / "slim" / "base")
    trained = load(plan.base.name)
    original = tiny_encoder("bert", tmp_path)
    name = "encoder.layer.2.output.dense.weight"
    moved = transformer_model(trained).get_parameter(name)
    assert not torch.equal(moved, transformer_model(original).get_parameter(name))
    exported = export(trained, plan, tmp_path / "out")
    assert transformer_model(exported).config.mlp_widths == list(plan.mlp_widths)
    with pytest.raises(ValueError, match="made for"):
        export(original, plan, tmp_path / "other")


def test_gates_choose_and_reconstruct_refits(tmp_path: Path) -> None:
    encoder = tiny_encoder("bert", tmp_path)
    plan = slim(encoder, examples(), QUICK, tmp_path / "slim")
    texts = load_calibration([f"w{x} w{x + 1} w{2 * x}" for x in range(1, 25)])
    refitted = reconstruct(
        tiny_encoder("bert", tmp_path), texts, ReconstructConfig(keep_neurons=None), plan=plan
    )
    assert refitted.mlp_widths == plan.mlp_widths
    assert refitted.outputs.keys() == plan.neurons.keys()
    assert [record["stage"] for record in refitted.made_by] == ["slim", "reconstruct"]
    assert refitted.made_by[-1]["calibration"]["tokens"] > 24
    for layer, kept in plan.neurons.items():
        assert torch.equal(refitted.neurons[layer], kept)
    export(tiny_encoder("bert", tmp_path), refitted, tmp_path / "out")


def test_the_lowest_gates_of_all_layers_go(tmp_path: Path) -> None:
    plan = slim(
        tiny_encoder("llama", tmp_path),
        examples(),
        replace(QUICK, multiple_of=1),
        tmp_path / "slim",
    )
    gates = load_file(tmp_path / "slim" / GATES_FILE)
    kept = {int(name.split(".")[1]): value for name, value in gates.items()}
    inside = torch.cat([kept[layer][plan.neurons[layer]] for layer in plan.neurons])
    outside = []
    for layer, neurons in plan.neurons.items():
        gone = torch.ones(48, dtype=torch.bool)
        gone[neurons] = False
        outside.append(kept[layer][gone])
    assert sum(plan.mlp_widths) == round(0.6 * 4 * 48)
    assert torch.cat(outside).max() <= inside.min()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"gate_learning_rate": 0.0}, "gate_learning_rate=0.0"),
        ({"gate_weight": -1.0}, "gate_weight=-1.0"),
        ({"multiple_of": 0}, "multiple_of=0"),
        ({"steps": 0}, "steps=0"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"warmup": 1.0}, "warmup=1.0"),
    ],
)
def test_settings_that_will_not_do_are_refused(change: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(QUICK, **change)


def test_widths_that_cannot_be_met_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lower one of the three"):
        slim(
            tiny_encoder("bert", tmp_path),
            examples(),
            replace(QUICK, min_width=40),
            tmp_path / "slim",
        )
    assert not (tmp_path / "slim").exists()


def test_a_plan_that_narrows_already_is_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder("bert", tmp_path)
    identity = BaseIdentity.of(transformer_model(encoder))
    plan = PruningPlan(base=identity, neurons={0: torch.arange(8)})
    with pytest.raises(ValueError, match="narrows MLPs already"):
        slim(encoder, examples(), QUICK, tmp_path / "slim", plan=plan)


def test_another_configuration_is_not_resumed_and_the_difference_is_named(tmp_path: Path) -> None:
    slim(tiny_encoder("bert", tmp_path), examples(), QUICK, tmp_path / "slim")
    other = replace(QUICK, gate_learning_rate=0.5)
    with pytest.raises(ValueError, match=r"gate_learning_rate 0\.01 then, 0\.5 now"):
        slim(tiny_encoder("bert", tmp_path), examples(), other, tmp_path / "slim")
    slim(tiny_encoder("bert", tmp_path), examples(), other, tmp_path / "slim", force=True)
