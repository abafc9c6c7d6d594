"""Self-slimming: labelled examples choose the MLP neurons, by a loss's gradients or by gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..encoder.encoder import transformer_model
from ..encoder.folder import probe, save
from ..encoder.history import history_of, with_stage
from ..encoder.loading import loaded
from ..files import new_file
from ..model.apply import apply, check_code
from ..model.families import find
from ..model.hooks import masked
from ..model.identity import BaseIdentity
from ..model.plan import PruningPlan
from ..model.surgery import mlp_widths, model_layers, remove_gate, restore_dtypes, widen
from ..progress import is_shown
from ..training.launch import is_main_process, is_sharded, processes
from ..training.lora import check_no_adapter
from ..training.losses import LossTerms, RetrievalLoss
from ..training.order import example_keys
from ..training.stage import Stage, data_record, prepare_work, train, training_data
from .by_gradients import by_gradients
from .export import check_sliced_equals_masked
from .ranking import Removal, choose_widths
from .slim_config import SlimConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.training_examples import TrainingData
    from ..data.training_rows import Source

GATES_FILE = "gates.safetensors"
BASE_FOLDER = "base"


def slim(
    model: SentenceTransformer | str | Path,
    data: TrainingData | Source,
    config: SlimConfig,
    work: str | Path | None = None,
    *,
    plan: PruningPlan | None = None,
    negatives: int = 7,
    force: bool = False,
    show_progress: bool | None = None,
) -> PruningPlan:
    """Choose the MLP neurons that stay by the gradients of examples, and refit the projections.

    As `reconstruct`, but an error at a token counts by the square of how far it moves the text's
    vector in the direction in which the contrastive loss of the examples pulls it; `reconstruct`
    takes a random direction, and no square. Neurons are ranked by backward elimination and the
    output projections refitted with these weights. Nothing is trained.

    With `paper`, gates choose instead (section 5.1, A.1), and nothing is refitted. Every MLP left
    computes `W_down( relu(z) * act(W_gate x) * (W_up x) )` (eq. 7) with `z = 1` at the start. `z`
    is trained on `InfoNCE + lambda * sum_i sigmoid(beta |relu(z_i)|)` (eq. 8), then all `relu(z)`
    are ranked together and the lowest `sparsity` of the neurons goes. Gates are fp32 whatever the
    model's dtype, and are not kept: a neuron stays whole or goes.

    Args:
        model: The base, or the folder or name to load it from; a loaded one is used up.
        data: Queries with positives and hard negatives: examples, or what `load_training` takes.
        config: How, and how many neurons go.
        work: For `paper` alone, and required there: folder of checkpoints; a killed run resumes
            from the last one. Ends up with `gates.safetensors`, the fp32 gates of every layer, and
            with `train_base` also with `base/`, the trained model that the plan is then for.
        plan: Sublayers that go anyway, from `drop`.
        negatives: Hard negatives of an example, where `data` is still to be read (the paper: 7).
        force: Start over whatever is in `work`.
        show_progress: Draw a progress bar;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        The plan with the kept neurons, and, without `paper`, new output projections.

    Raises:
        ValueError: The plan is of another base or narrows MLPs already, no MLP is left, widths
            cannot be met, the model carries an adapter, its layers are on disk, gradients are not
            finite or all zero, or `work` is of another run.
        RuntimeError: The loss is not finite, or the sliced model differs from the masked one.
    """
    show_progress = is_shown(show_progress)
    if config.paper and work is None:
        raise ValueError("gates are trained with checkpoints; name a folder for them (work)")
    encoder = loaded(model)
    check_no_adapter(transformer_model(encoder))
    check_code(transformer_model(encoder))
    base = BaseIdentity.of(transformer_model(encoder))
    plan = PruningPlan(base=base) if plan is None else plan
    plan.base.check_same(base)
    _check_prunable(plan, config)
    examples = training_data(
        encoder, data, config, negatives=negatives, show_progress=show_progress
    )
    stage = Stage(name="slim", config=config, data=data_record(examples))
    if not config.paper or work is None:
        return by_gradients(encoder, examples, stage, plan, config, show_progress=show_progress)
    return _by_gates(encoder, examples, stage, plan, config, Path(work), force, show_progress)


def _by_gates(
    encoder: SentenceTransformer,
    examples: TrainingData,
    stage: Stage,
    plan: PruningPlan,
    config: SlimConfig,
    work: Path,
    force: bool,
    show_progress: bool,
) -> PruningPlan:
    """Train gates, cut them, and write their values."""
    prepare_work(work, {**stage.manifest(encoder), "drop": _dropped(plan)}, force=force)
    gates = _add_gates(encoder, plan, config)
    dtypes = widen(transformer_model(encoder)) if config.train_base else {}
    log = train(
        encoder,
        examples.dataset,
        _loss(encoder, gates, config),
        config,
        work,
        keys=example_keys(examples.dataset),
        learning_rates={r"neuron_gate$": config.gate_learning_rate},
        description="Training gates",
        show_progress=show_progress,
    )
    values = {layer: gate.detach().relu().cpu() for layer, gate in gates.items()}
    neurons = _choose(values, config)
    _close_gates(encoder, gates, neurons)
    record = {**stage.record(), "log": log[:1] + log[-1:]}
    if config.train_base:
        plan = _trained_base(encoder, plan, record, work, dtypes)
    if is_main_process():
        with new_file(work / GATES_FILE) as partial:
            save_file({f"layers.{x}": value for x, value in values.items()}, partial)
    return replace(plan, neurons=neurons, made_by=(*plan.made_by, record))


def _dropped(plan: PruningPlan) -> dict[str, Any]:
    return {"mlp": list(plan.drop_mlp), "attention": list(plan.drop_attention)}


def _check_prunable(plan: PruningPlan, config: SlimConfig) -> None:
    if plan.neurons or plan.outputs:
        raise ValueError("the plan narrows MLPs already; start from one that only drops sublayers")
    widths = [width for width in plan.mlp_widths if width]
    if not widths:
        raise ValueError("no MLP is left to take neurons from; drop fewer MLPs")
    floor = -(-config.min_width // config.multiple_of) * config.multiple_of
    if len(widths) * floor > (1 - config.sparsity) * sum(widths):
        raise ValueError(
            f"sparsity={config.sparsity} leaves {(1 - config.sparsity) * sum(widths):.0f} neurons, "
            f"but {len(widths)} MLPs of at least {floor} (min_width, multiple_of) need "
            f"{len(widths) * floor}; lower one of the three"
        )
    if is_sharded():
        raise ValueError(
            "gates and gradients need weights that are not cut up between processes (FSDP, "
            "DeepSpeed); launch without sharding: frozen weights need no optimizer state"
        )
    if config.paper and config.mini_batch_size and processes() > 1:
        raise ValueError("gates are not trained with mini_batch_size on several processes; drop it")
    if not config.paper and processes() > 1:
        raise ValueError(
            "one process takes the gradients; launch one, or train gates (paper=True, --paper)"
        )


def _add_gates(
    encoder: SentenceTransformer, plan: PruningPlan, config: SlimConfig
) -> dict[int, nn.Parameter]:
    """Carry the plan out, gate every neuron left, and return the gates by layer."""
    encoder[0].model = apply(transformer_model(encoder), plan, gates=True)
    model = transformer_model(encoder)
    model.requires_grad_(config.train_base)
    gates = {}
    for layer, output in _outputs(encoder).items():
        gates[layer] = output.neuron_gate.requires_grad_(True)
        if gates[layer].dtype != torch.float32:
            raise RuntimeError(f"the gates of layer {layer} are {gates[layer].dtype}, not float32")
    return gates


def _outputs(encoder: SentenceTransformer) -> dict[int, Any]:
    model = transformer_model(encoder)
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    return {
        layer: layers[layer].get_submodule(architecture.mlp_output)
        for layer, width in enumerate(mlp_widths(model, architecture))
        if width
    }


def _loss(
    encoder: SentenceTransformer, gates: Mapping[int, nn.Parameter], config: SlimConfig
) -> RetrievalLoss:
    terms = LossTerms(
        temperature=config.loss_temperature, gate_weight=config.gate_weight, beta=config.beta
    )
    return RetrievalLoss(
        encoder, terms, gates=list(gates.values()), mini_batch_size=config.mini_batch_size
    )


def _choose(values: Mapping[int, torch.Tensor], config: SlimConfig) -> dict[int, torch.Tensor]:
    """Rank all gates together and return the neurons that stay in narrowed layers."""
    removals = {}
    for layer, gate in values.items():
        if not bool(gate.isfinite().all()):
            raise RuntimeError(
                f"the gates of layer {layer} are not finite; lower the learning rate"
            )
        cost, order = gate.double().sort(stable=True)
        removals[layer] = Removal(order=order, cost=cost)
    total = round((1 - config.sparsity) * sum(len(gate) for gate in values.values()))
    widths = choose_widths(
        removals,
        total=total,
        multiple_of=config.multiple_of,
        min_width=config.min_width,
        uniform=config.uniform,
    )
    return {
        layer: removals[layer].kept(width)
        for layer, width in widths.items()
        if width < len(values[layer])
    }


@torch.no_grad()
def _close_gates(
    encoder: SentenceTransformer,
    gates: Mapping[int, nn.Parameter],
    neurons: Mapping[int, torch.Tensor],
) -> None:
    """Set the gates to the binary mask of A.1, compare with the neurons gone, take them off."""
    for layer, gate in gates.items():
        kept = neurons.get(layer, torch.arange(len(gate)))
        gate.zero_()
        gate[kept.to(gate.device)] = 1
    gated = probe(encoder)
    _remove_gates(encoder)
    model = transformer_model(encoder)
    with masked(model, PruningPlan(base=BaseIdentity.of(model), neurons=neurons)):
        check_sliced_equals_masked(gated, probe(encoder), model.dtype)


def _remove_gates(encoder: SentenceTransformer) -> None:
    for output in _outputs(encoder).values():
        remove_gate(output)
    transformer_model(encoder).config.mlp_gates = False


def _trained_base(
    encoder: SentenceTransformer,
    plan: PruningPlan,
    record: Mapping[str, Any],
    work: Path,
    dtypes: Mapping[str, torch.dtype],
) -> PruningPlan:
    """Write the trained weights as a model of their own, which the neurons are then taken from."""
    restore_dtypes(transformer_model(encoder), dtypes)
    folder = work / BASE_FOLDER
    if is_main_process():
        save(encoder, with_stage(history_of(plan), record), folder, force=True)
    identity = BaseIdentity.of(transformer_model(encoder), str(folder))
    return PruningPlan(base=identity, made_by=plan.made_by)
