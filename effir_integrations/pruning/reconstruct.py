"""Prune MLP neurons without training, and refit the output projection of what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..data.calibration import calibrated
from ..encoder.encoder import transformer_model
from ..encoder.loading import loaded
from ..model.apply import check_code
from ..model.hooks import evaluation_mode
from ..model.identity import BaseIdentity
from ..model.plan import PruningPlan
from ..progress import is_shown
from .config import ReconstructConfig
from .measuring import measuring
from .ranking import check_widths, choose_widths
from .refit import Calibrator

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.calibration import Calibration


def reconstruct(
    model: SentenceTransformer | str | Path,
    texts: Calibration | str | Path | Sequence[str] | None,
    config: ReconstructConfig,
    *,
    plan: PruningPlan | None = None,
    show_progress: bool | None = None,
) -> PruningPlan:
    """Choose the MLP neurons that stay and refit the output projections to them, without training.

    The model is run, never changed. First, neurons are ranked by backward elimination: each step
    removes the one whose loss the others make good best. Widths follow from one ranking over all
    layers, an error at a token counting by how far it moves the text's vector (`count_by`). Then,
    layer by layer, `W` and `b` minimise `|W a + b - y|^2` over the calibration tokens, `a` being
    the activations of the kept neurons as the already narrowed layers cause them, and `y` the
    output of the full MLP plus `correction` times what the residual stream lacks by then.

    Hidden states go from layer to layer, those of the full model beside those of the narrowed one,
    so that a layer runs four or five times however many lie before it. They stay in memory as far
    as `memory` allows and in a temporary file beyond. A model loaded with `from_disk=True` is read
    layer by layer.

    Families whose output projection has no bias get none by `reconstruct`; `mean` adds one.

    Args:
        model: The base in a Sentence Transformers model, or the folder or name to load it from.
        texts: Texts to fit on, as a list, or as `load_calibration` takes them; None takes those
            that are shipped. No prompt is put in front of them.
        config: How many neurons stay, and how.
        plan: Sublayers that go anyway, from `drop`, and, where `keep_neurons` is None, the neurons
            that stay, from `slim`.
        show_progress: Draw a progress bar;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        The plan with kept neurons, new output projections, and measured errors in `made_by`.

    Raises:
        ValueError: The plan is of another base, already narrows MLPs (or does not, where
            `keep_neurons` is None), no MLP is left, widths cannot be met, activations or gradients
            are not finite, or gradients are wanted of layers on disk.
        OSError: The disk has no room for hidden states that `memory` does not hold.
        RuntimeError: A layer did not run, layers give other states one by one than in a whole
            forward pass, or a refit is worse than plain removal.
    """
    show_progress = is_shown(show_progress)
    encoder, calibration = loaded(model), calibrated(texts)
    transformer = transformer_model(encoder)
    check_code(transformer)
    base = BaseIdentity.of(transformer)
    plan = PruningPlan(base=base) if plan is None else plan
    plan.base.check_same(base)
    check_plan(plan, config)
    # hooks see every run of the transformer, so nobody else may run it meanwhile
    with measuring(encoder):
        calibrator = Calibrator(encoder, calibration, config, show_progress)
        calibrator.weigh(plan)
        with evaluation_mode(transformer):
            neurons, means = _kept(calibrator, plan, config)
            plan = replace(plan, neurons={})
            outputs, errors = calibrator.method.repair(calibrator, plan, neurons, means)
    record = {
        "stage": "reconstruct",
        "config": asdict(calibrator.config),
        "calibration": {**calibration.record, "tokens": calibrator.tokens},
        "relative_errors": errors,
    }
    narrowed = {x: kept for x, kept in neurons.items() if len(kept) < base.mlp_widths[x]}
    return replace(plan, neurons=narrowed, outputs=outputs, made_by=(*plan.made_by, record))


def _kept(
    calibrator: Calibrator, plan: PruningPlan, config: ReconstructConfig
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Return the neurons that stay, and the mean activations of all that were ranked."""
    if config.keep_neurons is None:
        return dict(plan.neurons), {}
    if config.keep_neurons == 1:
        return {x: torch.arange(width) for x, width in enumerate(plan.mlp_widths) if width}, {}
    return choose_neurons(calibrator, plan, config, config.keep_neurons)


def choose_neurons(
    calibrator: Calibrator, plan: PruningPlan, config: ReconstructConfig, keep: float
) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    """Return the neurons that stay in narrowed layers, and all neurons' mean activations."""
    widths = {layer: width for layer, width in enumerate(plan.mlp_widths) if width}
    removals, means = calibrator.rank(plan, widths)
    narrowed = choose_widths(
        removals,
        total=_total(widths, keep),
        multiple_of=config.multiple_of,
        min_width=config.min_width,
        uniform=config.uniform,
    )
    neurons = {
        layer: removals[layer].kept(width)
        for layer, width in narrowed.items()
        if width < widths[layer]
    }
    return neurons, means


def check_plan(plan: PruningPlan, config: ReconstructConfig) -> None:
    """Refuse a plan that `reconstruct` cannot start from, before any text is read.

    Raises:
        ValueError: As `reconstruct`, for all but another base.
    """
    if config.keep_neurons is None:
        if plan.outputs or not plan.neurons:
            if plan.outputs:
                raise ValueError("the plan is refitted already; export it (effir export)")
            raise ValueError(
                "the plan names no neurons that stay; choose them by gates (effir slim --paper), "
                "or say how many stay (--keep-neurons)"
            )
        return
    if config.keep_neurons == 1 and not (plan.drop_mlp or plan.drop_attention):
        raise ValueError(
            "keep_neurons=1 on a plan that drops nothing leaves nothing to make up for; keep fewer "
            "neurons, or drop sublayers first (effir drop)"
        )
    if plan.neurons or plan.outputs:
        raise ValueError("the plan narrows MLPs already; start from one that only drops sublayers")
    widths = {layer: width for layer, width in enumerate(plan.mlp_widths) if width}
    if not widths:
        raise ValueError("no MLP is left to take neurons from; drop fewer MLPs")
    if config.keep_neurons == 1:
        return
    narrowest = min(widths, key=lambda layer: widths[layer])
    if widths[narrowest] < config.multiple_of:
        raise ValueError(
            f"multiple_of={config.multiple_of} is more than the {widths[narrowest]} neurons of "
            f"layer {narrowest}; choose at most that"
        )
    check_widths(
        widths,
        total=_total(widths, config.keep_neurons),
        multiple_of=config.multiple_of,
        min_width=config.min_width,
    )


def _total(widths: Mapping[int, int], keep: float) -> int:
    return round(keep * sum(widths.values()))
