"""Rank neurons and refit output projections on calibration texts that stream by."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..encoder.encoder import token_batches, transformer_model
from ..model.apply import as_planned, least_cosine
from ..model.families import Architecture, find
from ..model.hooks import capture, masked, output_bias, output_weight, run_layer, token_mask
from ..model.offload import is_on_disk
from ..model.plan import PruningPlan
from ..model.streams import Streams
from ..model.surgery import model_layers
from ..progress import progress_bar
from .methods import METHODS
from .moments import Moments
from .sensitivity import weigh_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ..data.calibration import Calibration
    from ..model.hooks import Captured, LayerOutput
    from .config import ReconstructConfig
    from .ranking import Removal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Whole:
    """What a refit asks of the full model at the tokens of one batch."""

    counts: torch.Tensor
    """What each token counts for, (tokens,), fp32."""
    reference: torch.Tensor
    """What the narrowed model's counterpart is compared with, (tokens, hidden)."""


class Calibrator:
    """Runs the calibration texts through a model and adds up what ranking and refitting need."""

    def __init__(
        self,
        encoder: SentenceTransformer,
        calibration: Calibration,
        config: ReconstructConfig,
        show_progress: bool,
        *,
        batches: Sequence[Mapping[str, torch.Tensor]] | None = None,
        counts: Mapping[tuple[int, int], torch.Tensor] | None = None,
    ) -> None:
        """Make batches of the texts, or take those that there are.

        Args:
            encoder: Whose model is run.
            calibration: The texts.
            config: How many neurons stay, and how.
            show_progress: Draw progress bars.
            batches: The same texts as model inputs, in the batches that `counts` is for.
            counts: (layer, batch) -> what each token counts for, (tokens,), by gradients that are
                there already.

        Raises:
            ValueError: Tokens are to count by gradients, and layers are on disk.
        """
        self.encoder = encoder
        self.method = METHODS[config.method]
        self.show_progress = show_progress
        self.model: Any = transformer_model(encoder)
        self.architecture: Architecture = find(self.model.config)
        self.config = self._resolved(config)
        self.batches = batches or list(
            token_batches(
                encoder,
                calibration.texts,
                max_length=config.max_length,
                batch_tokens=config.batch_tokens,
            )
        )
        self.counts = counts
        self.tokens = sum(int(token_mask(batch).sum()) for batch in self.batches)
        self.memory = int(config.memory * 2**30)
        self._wholes: dict[tuple[int, int], _Whole] = {}

    def weigh(self, plan: PruningPlan) -> None:
        """Find out what tokens count for by gradients, if they do, before anything is ranked.

        Gradients are of the model without the plan's sublayers, and are taken outside of
        `evaluation_mode`, which allows none.
        """
        if self.counts is None and self.config.count_by == "gradients":
            self.counts = weigh_tokens(
                self.encoder,
                replace(plan, neurons={}, outputs={}),
                self.batches,
                show_progress=self.show_progress,
            )

    def _resolved(self, config: ReconstructConfig) -> ReconstructConfig:
        on_disk = any(is_on_disk(layer) for layer in model_layers(self.model, self.architecture))
        if config.count_by is None:
            by_gradients = self.method.fits_any_neurons and not on_disk
            return replace(config, count_by="gradients" if by_gradients else "stream")
        if config.count_by == "gradients" and on_disk:
            raise ValueError(
                "count_by='gradients' needs the layers in memory; load the model without "
                "from_disk, or let tokens count by their stream (count_by='stream')"
            )
        return config

    def streams(self) -> Streams:
        """Return a place for the hidden states of all texts, which stand before the first layer."""
        shapes = [batch["input_ids"].shape for batch in self.batches]
        return Streams(shapes, memory=self.memory // 4)

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
        streams, remembers = self.streams(), self._remembers(plan, len(widths))
        for layer in self._progress(range(max(widths) + 1), "Ranking neurons"):
            if layer not in widths:
                self.advance(streams, layer, plan)
                continue
            output = self.output(layer)
            weight = output_weight(output)
            moments = Moments(widths[layer], 0, weight.device)
            for place, batch in enumerate(self.batches):
                seen = self._capture(plan, batch, layer, streams[place])
                streams[place] = seen.handed_on
                whole = self._whole(layer, place, seen)
                moments.add(seen.activations, whole.counts)
                if remembers:
                    self._wholes[layer, place] = whole
            _check_finite(moments, layer)
            means[layer] = moments.mean
            removals[layer] = self.method.removal(
                moments,
                weight.to(moments.mean),
                bias=output.bias is not None,
                ridge=self.config.ridge,
            )
        self._check_streams(streams, max(widths), plan)
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
            if (old := output_bias(output)) is not None:
                bias = bias + old.to(bias)
            outputs[layer] = {"bias": bias.float().cpu()}
        return outputs

    def refit(
        self, plan: PruningPlan, neurons: Mapping[int, torch.Tensor]
    ) -> tuple[dict[int, dict[str, torch.Tensor]], dict[str, dict[str, float]]]:
        """Refit the output projections layer by layer; return them and their relative errors."""
        outputs: dict[int, dict[str, torch.Tensor]] = {}
        errors: dict[str, dict[str, float]] = {}
        full = None if self._wholes else self.streams()
        narrowed = self.streams()
        base, last = PruningPlan(base=plan.base), max(neurons, default=-1)
        for layer in self._progress(range(last + 1), "Refitting layers"):
            present = plan
            if layer in neurons:
                moments = self._moments(plan, layer, neurons[layer], full, narrowed)
                outputs[layer], errors[str(layer)] = self._fit(moments, layer, neurons[layer])
                present = replace(
                    plan, neurons={layer: neurons[layer]}, outputs={layer: outputs[layer]}
                )
            elif full is not None:
                self.advance(full, layer, base)
            if layer < last:
                self.advance(narrowed, layer, present)
        if full is not None and neurons:
            self._check_streams(full, last, base)
        return outputs, errors

    def advance(self, streams: Streams, layer: int, plan: PruningPlan) -> None:
        """Take the hidden states through one layer, as the plan leaves it."""
        with as_planned(self.model, plan, layer):
            for place, batch in enumerate(self.batches):
                streams[place] = run_layer(
                    self.encoder, self.architecture, batch, layer, streams[place]
                )

    def _remembers(self, plan: PruningPlan, layers: int) -> bool:
        """Say whether what the refit asks of the full model is seen, and fits, while ranking."""
        needed = layers * self.tokens * self.model.config.hidden_size * self.model.dtype.itemsize
        whole = not (plan.drop_mlp or plan.drop_attention)
        return whole and self.method.fits_any_neurons and needed <= self.memory // 2

    def _whole(self, layer: int, place: int, seen: Captured) -> _Whole:
        if self.config.count_by == "stream":
            counts = self.method.count(self.batches[place], seen)
        elif self.counts is None:
            raise RuntimeError("tokens count by gradients, and nothing has weighed them yet")
        else:
            counts = self.counts[layer, place].to(seen.stream.device)
        return _Whole(counts=counts, reference=self._reference(seen))

    def _reference(self, seen: Captured) -> torch.Tensor:
        # behind a norm, the stream's lack is not in the projection's units: its output's is
        return seen.output if self.architecture.norms_branches else seen.stream

    def _capture(
        self,
        plan: PruningPlan,
        batch: Mapping[str, torch.Tensor],
        layer: int,
        start: LayerOutput | None,
    ) -> Captured:
        with masked(self.model, plan):
            return capture(self.encoder, self.architecture, batch, [layer], start=start)[layer]

    def _check_streams(self, streams: Streams, layer: int, plan: PruningPlan) -> None:
        """Compare what layers gave one by one with what they give in one forward pass.

        Raises:
            RuntimeError: The model does more between its layers than hand states on.
        """
        text = {
            key: value[:1] if torch.is_tensor(value) else value
            for key, value in self.batches[0].items()
        }
        whole = self._capture(plan, text, layer, None).handed_on.hidden
        real = token_mask(text).to(whole.device)
        one_by_one = streams[0].hidden[:1][real].float()  # type: ignore[union-attr]
        cosine = nn.functional.cosine_similarity(one_by_one, whole[real].float(), dim=-1)
        if not bool((cosine >= least_cosine(whole.dtype)).all()):
            raise RuntimeError(
                f"the layers of this {self.architecture.family} model give other states one by one "
                f"than in a whole forward pass (cosine down to {float(cosine.min()):.4f} behind "
                f"layer {layer}), so it cannot be reconstructed; choose method=plain, or a model "
                "of the stock class"
            )

    def _moments(
        self,
        plan: PruningPlan,
        layer: int,
        kept: torch.Tensor,
        full: Streams | None,
        narrowed: Streams,
    ) -> Moments:
        """Add up a layer's activations and targets, and take the full stream through it."""
        weight = output_weight(self.output(layer))
        kept = kept.to(weight.device)
        moments = Moments(len(kept), len(weight), weight.device)
        for place, batch in enumerate(self.batches):
            if full is None:
                whole = self._wholes[layer, place]
            else:
                base = self._capture(PruningPlan(base=plan.base), batch, layer, full[place])
                full[place] = base.handed_on
                whole = self._whole(layer, place, base)
            seen = self._capture(plan, batch, layer, narrowed[place])
            lacks = whole.reference.float() - self._reference(seen).float()
            target = seen.output.float() + self.config.correction * lacks
            moments.add(seen.activations.index_select(1, kept), whole.counts, target)
        _check_finite(moments, layer)
        return moments

    def _fit(
        self, moments: Moments, layer: int, kept: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        output = self.output(layer)
        old, old_bias = output_weight(output), output_bias(output)
        prior = old.index_select(1, kept.to(old.device))
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

    def _progress(self, layers: range, description: str) -> Any:
        return progress_bar(layers, desc=description, unit="layer", shown=self.show_progress)


def _check_finite(moments: Moments, layer: int) -> None:
    if not moments.finite:
        raise ValueError(
            f"the MLP activations of layer {layer} are not finite (NaN, inf or overflow); load the "
            "model in bf16 or fp32, and check its weights"
        )
