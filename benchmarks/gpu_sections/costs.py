"""What pruning itself costs on the 7B shape: time and memory of `analyze` and `reconstruct`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from effir_integrations import BaseIdentity, Encoder, ReconstructConfig, analyze, reconstruct
from effir_integrations.encoder.encoder import token_batches, transformer_model

from .clock import Clock, OutOfTime
from .inputs import DEPTH, MAIN, Setting, make_encoder
from .meters import Once, figure, free, time_once
from .results import Results, Section

TRIAL_LAYERS = 4
"""Of the model on which `reconstruct` shows whether the whole model fits into the time left."""
MARGIN = 2.0
"""A whole model may take this many times what the trial lets expect, a layer for a layer."""


def run(setting: Setting, results: Results, clock: Clock) -> None:
    """Measure both, `reconstruct` on few layers first."""
    _analyze(setting, results)
    free()
    layers = setting.shape.layers
    seconds = _reconstruct(setting, results, min(TRIAL_LAYERS, layers))
    expected = MARGIN * seconds * layers / TRIAL_LAYERS
    if expected > clock.left:
        results.note(
            f"reconstruct on all {layers} layers was left out: up to {expected:.0f} s were to be "
            f"expected by the trial, {clock.left:.0f} s were left."
        )
        return
    try:
        _reconstruct(setting, results, layers)
    except OutOfTime:
        results.note(f"reconstruct on all {layers} layers was cut when its time was over.")
        raise


def _analyze(setting: Setting, results: Results) -> None:
    """Measure `analyze`, and a plain forward pass over the same texts, the first one unmeasured."""
    encoder, read = make_encoder(setting, setting.shape), list(setting.calibration)
    forward = _forward(encoder, read)
    forward()
    for name, call in (("forward pass", forward), ("analyze", partial(analyze, encoder, read))):
        results.add(**_row(name, encoder, time_once(call, setting.device)))


def _forward(encoder: Encoder, texts: list[str]) -> Any:
    """Return a plain forward pass over the texts, in the batches that `analyze` has."""

    def run() -> None:
        with torch.inference_mode():
            for batch in token_batches(encoder, texts):
                transformer_model(encoder)(**batch)

    return run


def _reconstruct(setting: Setting, results: Results, layers: int) -> float:
    """Measure the refit of the MLPs that the main setting leaves of so many layers."""
    encoder = make_encoder(setting, replace(setting.shape, layers=layers))
    plan = DEPTH.plan(BaseIdentity.of(transformer_model(encoder)))
    config = ReconstructConfig(keep_neurons=1 - MAIN.width, multiple_of=8)
    call = partial(reconstruct, encoder, list(setting.calibration), config, plan=plan)
    once = time_once(call, setting.device)
    results.add(**_row("reconstruct", encoder, once), mlps=len(once.value.neurons))
    del encoder, call
    free()
    return once.seconds


def _row(name: str, encoder: Encoder, once: Once) -> dict[str, Any]:
    return {
        "what": name,
        "layers": transformer_model(encoder).config.num_hidden_layers,
        "seconds": once.seconds,
        "peak": once.peak,
    }


SECTION = Section(
    name="costs",
    title="What pruning costs",
    text="64 texts of 128 tokens (2 in a rehearsal), bf16: few, since a refit is timed here and "
    "not judged. `reconstruct` on half of the MLPs, of which it keeps 70 % of the neurons (the "
    "main setting), first on a model of few layers. One run each; peaks include the model.",
    columns={
        "what": lambda row: row["what"],
        "layers": lambda row: str(row["layers"]),
        "MLPs refitted": lambda row: str(row.get("mlps", "")),
        "seconds": lambda row: figure(row["seconds"]),
        "seconds a layer": lambda row: figure(row["seconds"] / row["layers"]),
        "peak, GB": lambda row: figure(row["peak"]),
    },
    run=run,
    seconds=110,
)
