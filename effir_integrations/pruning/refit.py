"""Rank neurons and refit output projections on calibration texts that stream by."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..encoder.encoder import token_batches, transformer_model
from ..model.families import Architecture, find
from ..model.hooks import capture, masked, output_weight
from ..model.plan import PruningPlan
from ..model.surgery import model_layers
from ..progress import progress_bar
from .methods import METHODS
from .moments import Moments

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.calibration import Calibration
    from .config import ReconstructConfig
    from .ranking import Removal

logger = logging.getLogger(__name__)

_GRAM_BYTES = 2 << 30
"""Gram matrices of as many layers as fit into this are summed in one pass, one at the least."""


class Calibrator:
    """Runs the calibration texts through a model and adds up what ranking and refitting need."""

    def __init__(
        self,
        encoder: SentenceTransformer,
        calibration: Calibration,
        config: ReconstructConfig,
        show_progress: bool,
    ) -> None:
        self.encoder = encoder
        self.texts = calibration.texts
        self.config = config
        self.method = METHODS[config.method]
        self.show_progress = show_progress
        self.model: Any = transformer_model(encoder)
        self.architecture: Architecture = find(self.model.config)
        self.tokens = 0

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Run over the texts once more."""
        return token_batches(
            self.encoder,
            self.texts,
            max_length=self.config.max_length,
            batch_tokens=self.config.batch_tokens,
        )

    def output(self, layer: int) -> Any:
        """Return the output projection of a layer's MLP."""
        return model_layers(self.model, self.architecture)[layer].get_submodule(
            self.architecture.mlp_output
        )

    def rank(
        self, plan: PruningPlan, widths: Mapping[int, int]
    ) -> tuple[dict[int, Removal], dict[int, torch.Tensor]]:
        """Rank the neurons of every layer, on the stream that the dropped sublayers leave."""
        removals: dict[int, Removal] = {}
        means: dict[int, torch.Tensor] = {}
        groups = _groups(widths)
        for group in self._progress(groups, "Ranking neurons", "pass"):
            moments = {
                layer: Moments(widths[layer], 0, self.output(layer).weight.device)
                for layer in group
            }
            self.tokens = 0
            for batch in self.batches():
                with masked(self.model, plan):
                    seen = capture(self.encoder, self.architecture, batch, group)
                self.tokens += len(seen[group[0]].stream)
                for layer, parts in seen.items():
                    moments[layer].add(parts.activations, self.method.count(batch, parts))
            for layer in group:
                summed = moments.pop(layer)
                _check_finite(summed, layer)
                means[layer] = summed.mean
                output = self.output(layer)
                removals[layer] = self.method.removal(
                    summed,
                    output_weight(output).to(summed.mean),
                    bias=output.bias is not None,
                    ridge=self.config.ridge,
                )
        if self.tokens < max(widths.values()):
            logger.warning(
                "%d calibration tokens are fewer than the %d neurons of a layer; give more texts",
                self.tokens,
                max(widths.values()),
            )
        return removals, means

    def mean_outputs(
        self, neurons: Mapping[int, torch.Tensor], means: Mapping[int, torch.Tensor]
    ) -> dict[int, dict[str, torch.Tensor]]:
        """Return biases that hold what the removed neurons add on average."""
        outputs = {}
        for layer, kept in neurons.items():
            output = self.output(layer)
            gone = torch.ones(len(means[layer]), dtype=torch.bool)
            gone[kept] = False
            gone = gone.to(means[layer].device)
            bias = output_weight(output).to(means[layer])[:, gone] @ means[layer][gone]
            if output.bias is not None:
                bias = bias + output.bias.detach().to(bias)
            outputs[layer] = {"bias": bias.float().cpu()}
        return outputs

    def refit(
        self, plan: PruningPlan, neurons: Mapping[int, torch.Tensor]
    ) -> tuple[dict[int, dict[str, torch.Tensor]], dict[str, dict[str, float]]]:
        """Refit the output projections layer by layer; return them and their relative errors."""
        outputs: dict[int, dict[str, torch.Tensor]] = {}
        errors: dict[str, dict[str, float]] = {}
        for layer in self._progress(sorted(neurons), "Refitting layers", "layer"):
            before = replace(plan, neurons={x: neurons[x] for x in outputs}, outputs=dict(outputs))
            moments = self._moments(before, layer, neurons[layer])
            outputs[layer], errors[str(layer)] = self._fit(moments, layer, neurons[layer])
        return outputs, errors

    def _moments(self, before: PruningPlan, layer: int, kept: torch.Tensor) -> Moments:
        output = self.output(layer)
        kept = kept.to(output.weight.device)
        moments = Moments(len(kept), len(output_weight(output)), output.weight.device)
        self.tokens = 0
        for batch in self.batches():
            full = capture(self.encoder, self.architecture, batch, [layer])[layer]
            with masked(self.model, before):
                seen = capture(self.encoder, self.architecture, batch, [layer])[layer]
            self.tokens += len(seen.stream)
            # behind a norm, the stream's lack is not in the projection's units: its output's is
            lacks = (
                full.output.float() - seen.output.float()
                if self.architecture.norms_branches
                else full.stream.float() - seen.stream.float()
            )
            target = seen.output.float() + self.config.correction * lacks
            counts = self.method.count(batch, full)
            moments.add(seen.activations.index_select(1, kept), counts, target)
        _check_finite(moments, layer)
        return moments

    def _fit(
        self, moments: Moments, layer: int, kept: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        output = self.output(layer)
        prior = output_weight(output).index_select(1, kept.to(output.weight.device))
        old_bias = None if output.bias is None else output.bias.detach()
        weight, bias = moments.fit(prior, ridge=self.config.ridge, bias=old_bias is not None)
        errors = {
            "refitted": moments.error(weight, bias),
            "plain": moments.error(prior, old_bias),
        }
        if not errors["refitted"] <= errors["plain"] * 1.001:
            raise RuntimeError(
                f"the refit of layer {layer} is worse than plain removal ({errors}); raise the "
                f"ridge (now {self.config.ridge}) or give more calibration texts"
            )
        stored = weight if isinstance(output, nn.Linear) else weight.T
        parts = {"weight": stored.float().cpu().contiguous()}
        if bias is not None:
            parts["bias"] = bias.float().cpu()
        return parts, errors

    def _progress(self, items: list[Any], description: str, unit: str) -> Any:
        return progress_bar(items, desc=description, unit=unit, shown=self.show_progress)


def _groups(widths: Mapping[int, int]) -> list[list[int]]:
    """Split layers so that the Gram matrices of each group fit in `_GRAM_BYTES`, or are one."""
    groups: list[list[int]] = []
    used = 0
    for layer, width in widths.items():
        needed = 8 * width * width
        if not groups or used + needed > _GRAM_BYTES:
            groups.append([])
            used = 0
        groups[-1].append(layer)
        used += needed
    return groups


def _check_finite(moments: Moments, layer: int) -> None:
    if not moments.finite:
        raise ValueError(
            f"the MLP activations of layer {layer} are not finite (NaN, inf or overflow); load the "
            "model in bf16 or fp32, and check its weights"
        )
