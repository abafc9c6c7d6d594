"""Rank and refit MLP neurons with tokens weighted by what a loss's gradient says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ..data.calibration import Calibration
from ..encoder.encoder import transformer_model
from ..encoder.tokenization import cut_to
from ..model.families import find
from ..model.hooks import evaluation_mode
from ..model.offload import is_on_disk
from ..model.surgery import model_layers
from ..training.losses import info_nce
from ..training.order import example_keys, training_order
from .measuring import measuring
from .reconstruct import check_plan, choose_neurons
from .refit import Calibrator
from .sensitivity import sensitivity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.training_examples import TrainingData
    from ..model.plan import PruningPlan
    from ..training.stage import Stage
    from .sensitivity import Loss
    from .slim_config import SlimConfig


def by_gradients(
    encoder: SentenceTransformer,
    examples: TrainingData,
    stage: Stage,
    plan: PruningPlan,
    config: SlimConfig,
    *,
    show_progress: bool = False,
) -> PruningPlan:
    """Return the plan with kept neurons and refitted projections; see `slim`.

    Raises:
        ValueError: Layers are on disk, widths cannot be met, the examples fill no batch, or
            gradients are not finite or all zero.
        RuntimeError: A layer did not run, or a refit is worse than plain removal.
    """
    model = transformer_model(encoder)
    architecture = find(model.config)
    layers = model_layers(model, architecture)
    if any(is_on_disk(layer) for layer in layers):
        raise ValueError("gradients need the layers in memory; load the model without from_disk")
    settings = config.reconstruct_config
    check_plan(plan, settings)
    groups, texts = _groups(encoder, examples, config)
    with measuring(encoder):
        counts = sensitivity(encoder, plan, groups, pull_of(config.loss_temperature))
        calibrator = Calibrator(
            encoder,
            Calibration(texts=tuple(texts), source=examples.source),
            settings,
            show_progress,
            batches=[batch for group in groups for batch in group],
            counts=counts,
        )
        with evaluation_mode(model):
            neurons, _ = choose_neurons(calibrator, plan, settings, 1 - config.sparsity)
            parts, errors = calibrator.refit(plan, neurons)
    record = {
        **stage.record(),
        "calibration": {"texts": len(texts), "tokens": calibrator.tokens},
        "relative_errors": errors,
    }
    return replace(plan, neurons=neurons, outputs=parts, made_by=(*plan.made_by, record))


def _groups(
    encoder: SentenceTransformer, examples: TrainingData, config: SlimConfig
) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """Return examples by the batch, of each its columns as model inputs, and all their texts."""
    dataset: Any = examples.dataset
    columns = [name for name in dataset.column_names if name != "label"]
    size = min(config.batch_size, config.examples, len(examples))
    order = training_order(
        len(examples),
        batch_size=size,
        steps=min(config.examples, len(examples)) // size,
        seed=config.seed,
        keys=example_keys(dataset),
    )
    cut = cut_to(encoder, config.max_length)
    groups, texts = [], []
    for start in range(0, len(order), size):
        rows = dataset.select(order[start : start + size])
        groups.append([_inputs(encoder, list(rows[name]), cut) for name in columns])
        texts += [text for name in columns for text in rows[name]]
    return groups, texts


def _inputs(encoder: SentenceTransformer, texts: list[str], cut: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value.to(encoder.device) if torch.is_tensor(value) else value
        for key, value in encoder.preprocess(texts, **cut).items()
    }


def pull_of(temperature: float) -> Loss:
    """Return what tokens count by, as a function of a group's vectors.

    It is the direction alone in which the contrastive loss pulls each text's vector, at one length
    for all: by its own length the few texts that are ranked wrongly would count for all.
    """

    def pull(vectors: list[torch.Tensor]) -> torch.Tensor:
        leaves = [x.detach().requires_grad_() for x in vectors]
        loss = info_nce(leaves[0], leaves[1:], temperature)
        pulls = torch.autograd.grad(loss, leaves)
        directions = functional.normalize(torch.cat(pulls), dim=-1)
        return (torch.cat(vectors) * directions).sum()

    return pull
