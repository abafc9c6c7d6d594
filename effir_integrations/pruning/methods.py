"""The ways to choose the neurons that go and to make up for them; a new one is a class here.

The settings read the names, so this loads without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..model.hooks import Captured
    from ..model.plan import PruningPlan
    from .moments import Moments
    from .ranking import Removal
    from .refit import Calibrator

    ByLayer = Mapping[int, Tensor]
    Repair = tuple[dict[int, dict[str, Tensor]], dict[str, dict[str, float]]]


class Plain:
    """The neurons that add least to the output go, and nothing makes up for them."""

    fits_any_neurons = False
    """Whether neurons that something else chose, or all of them, can be fitted."""
    bias_takes_mean = False
    """Whether only what neurons vary by is lost with them, since a bias takes over the rest."""

    def count(self, batch: Mapping[str, Tensor], seen: Captured) -> Tensor:
        """Return what each token counts for, (tokens,), fp32: alike."""
        return seen.stream.new_ones(len(seen.stream)).float()

    def removal(self, moments: Moments, weight: Tensor, *, bias: bool, ridge: float) -> Removal:
        """Rank the neurons of one MLP.

        Args:
            moments: Of its neurons' activations; used up.
            weight: Of the output projection, (hidden, neurons), fp64.
            bias: Whether that projection has a bias.
            ridge: Pull towards the present weights, where something is refitted.
        """
        from .ranking import rank_alone

        gram = moments.gram(centred=self.bias_takes_mean)
        return rank_alone(gram.diagonal() * weight.square().sum(0))

    def repair(self, run: Calibrator, plan: PruningPlan, kept: ByLayer, means: ByLayer) -> Repair:
        """Return new parts of the output projections by layer, and their relative errors.

        Args:
            run: Of the model over its texts.
            plan: Sublayers that are gone.
            kept: Neurons that stay, by layer.
            means: Mean activation of each neuron, by layer, where neurons were ranked.
        """
        return {}, {}


class Mean(Plain):
    """The neurons that vary least go, and the output's bias takes what they add on average."""

    bias_takes_mean = True

    def repair(self, run: Calibrator, plan: PruningPlan, kept: ByLayer, means: ByLayer) -> Repair:
        """Return biases that hold what the removed neurons add on average."""
        return run.mean_outputs(kept, means), {}


class Reconstruct(Plain):
    """The neurons go that the others make good best, and the output projections are refitted."""

    fits_any_neurons = True

    def count(self, batch: Mapping[str, Tensor], seen: Captured) -> Tensor:
        """Return what each token counts for, (tokens,), fp32.

        Every text counts alike, as each gives one vector, and an error counts in units of the
        token's residual stream, which the next norm divides by.
        """
        ids = batch["input_ids"]
        mask = batch.get("attention_mask", ids.new_ones(ids.shape)).bool()
        lengths = mask.sum(1, keepdim=True).expand_as(mask)[mask].to(seen.stream.device)
        energy = seen.stream.float().var(dim=-1, correction=0)
        return 1 / (lengths * energy.clamp_min(1e-12))

    def removal(self, moments: Moments, weight: Tensor, *, bias: bool, ridge: float) -> Removal:
        """Rank the neurons of one MLP by backward elimination."""
        from .ranking import rank_together

        removal = rank_together(moments.take_gram(centred=bias), weight, ridge)
        # a sum over tokens, each in units of its stream, is what layers can be compared by
        return replace(removal, cost=removal.cost * moments.weight)

    def repair(self, run: Calibrator, plan: PruningPlan, kept: ByLayer, means: ByLayer) -> Repair:
        """Refit the output projections, layer by layer."""
        return run.refit(plan, kept)


METHODS = {"reconstruct": Reconstruct(), "mean": Mean(), "plain": Plain()}
