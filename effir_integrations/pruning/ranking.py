"""Order the neurons of an MLP by what their removal costs, and share out widths over the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .moments import ridge_strength

_CANDIDATES = 4
"""Neurons looked at for each one that a block removes."""
_WORTH_COPYING = 0.75
"""Share of a matrix's neurons that is left when the others are taken out of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """In which order the neurons of one MLP go, and what each step costs."""

    order: torch.Tensor
    """Neurons, the least needed first, (neurons,), int64."""
    cost: torch.Tensor
    """Growth of the output's mean squared error at each step, (neurons,), fp64."""

    def kept(self, width: int) -> torch.Tensor:
        """Return the `width` neurons that go last, ascending."""
        return self.order[len(self.order) - width :].sort().values


def rank_alone(energy: torch.Tensor) -> Removal:
    """Rank neurons one by one, as if nothing made up for those that are gone.

    Args:
        energy: What each neuron adds to the output, its mean square or variance, (neurons,), fp64.
    """
    cost, order = energy.cpu().sort(stable=True)
    return Removal(order=order, cost=cost)


def rank_together(
    gram: torch.Tensor, weight: torch.Tensor, ridge: float, block: int = 64
) -> Removal:
    """Rank neurons by backward elimination: the rest is refitted after every removal.

    With `W` the refitted projection and `H` the inverse of the Gram matrix of the neurons left, the
    squared error grows by `|W_j|^2 / H_jj` when neuron `j` goes (the optimal brain surgeon's
    criterion), and `W` and `H` are then updated. Within a block the steps are exact over the
    neurons that are cheapest when it begins; both matrices are updated once a block, which makes
    the whole `O(neurons^3)` in matrix products.

    Args:
        gram: Mean of `a a^T` over tokens, (neurons, neurons), fp64.
        weight: The projection from neurons to outputs, (outputs, neurons), fp64.
        ridge: Pull towards the present weights, as a share of the mean diagonal of `gram`.
        block: Neurons removed between two updates of the matrices.

    Returns:
        The order and the cost of each step, on the CPU.
    """
    device, neurons = gram.device, len(gram)
    inverse = gram.clone()
    inverse.diagonal().add_(ridge_strength(gram, ridge))
    del gram  # of a 7B model it is 1.6 GB, and so is each step
    inverse = torch.linalg.cholesky(inverse)
    inverse = torch.cholesky_inverse(inverse)
    left = torch.arange(neurons, device=device)
    gone = torch.zeros(neurons, dtype=torch.bool, device=device)
    order, costs = [], []
    while not gone.all():
        score = (weight.square().sum(0) / inverse.diagonal()).masked_fill(gone, torch.inf)
        alive = int((~gone).sum())
        candidates = score.argsort(stable=True)[: min(alive, _CANDIDATES * block)]
        steps, cost = _eliminate(
            inverse[candidates[:, None], candidates], _alike(weight[:, candidates]), block
        )
        block_gone = candidates[steps]
        order.append(left[block_gone])
        costs.append(cost)
        weight = _take_out(inverse, weight, block_gone)
        gone[block_gone] = True
        # a smaller matrix is copied for: now and then, not for every block
        if alive - len(steps) < _WORTH_COPYING * len(gone):
            kept = (~gone).nonzero()[:, 0]
            weight, inverse = weight[:, kept], inverse[kept[:, None], kept]
            left, gone = left[kept], gone[kept]
    return Removal(order=torch.cat(order).cpu(), cost=torch.cat(costs).cpu())


def _alike(weight: torch.Tensor) -> torch.Tensor:
    """Return fewer rows with the same products between columns: only these are asked for."""
    return weight if len(weight) <= weight.shape[1] else torch.linalg.qr(weight, mode="r").R


def _eliminate(
    inverse: torch.Tensor, weight: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove the cheapest neuron, again and again, and return the positions and costs.

    Both matrices are changed in place.
    """
    gone, costs = [], []
    left = torch.ones(len(inverse), dtype=torch.bool, device=inverse.device)
    for _ in range(min(steps, len(inverse))):
        score = weight.square().sum(0) / inverse.diagonal()
        score[~left] = torch.inf  # of a removed neuron both are rounding
        cost, position = score.min(0)
        row = inverse[position] / inverse[position, position]
        weight -= torch.outer(weight[:, position], row)
        inverse -= torch.outer(inverse[:, position], row)
        left[position] = False
        gone.append(position)
        costs.append(cost)
    return torch.stack(gone), torch.stack(costs)


def _take_out(inverse: torch.Tensor, weight: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """Return the weights refitted for the loss of some neurons, and update the inverse in place.

    Of the neurons that are gone both become zero but for rounding.
    """
    rows = inverse[gone]
    update = torch.cholesky_solve(rows, torch.linalg.cholesky(rows[:, gone]))
    inverse.addmm_(rows.T, update, alpha=-1)
    return torch.addmm(weight, weight[:, gone], update, alpha=-1)


def choose_widths(
    removals: Mapping[int, Removal],
    *,
    total: int,
    multiple_of: int,
    min_width: int,
    uniform: bool = False,
) -> dict[int, int]:
    """Take neurons from whichever layer loses least by it, a block at a time, or from all alike.

    Args:
        removals: layer -> order and cost, in units that are comparable between layers.
        total: How many neurons may stay; the widths come as close to it as `multiple_of` allows.
        multiple_of: What every narrowed width is a multiple of.
        min_width: What no layer goes below.
        uniform: Give all layers one width, whatever their costs.

    Returns:
        layer -> width.

    Raises:
        ValueError: No layer can be narrowed that far.
    """
    widths = {layer: len(removal.order) for layer, removal in removals.items()}
    floor = check_widths(widths, total=total, multiple_of=multiple_of, min_width=min_width)
    if uniform:
        narrowest = min(widths.values())
        choices = [*range(floor, narrowest, multiple_of), narrowest]
        width = min(choices, key=lambda each: abs(each * len(widths) - total))
        return dict.fromkeys(widths, width)
    summed = {layer: removal.cost.cumsum(0) for layer, removal in removals.items()}
    while True:
        excess = sum(widths.values()) - total
        if excess <= 0:
            return widths
        options = []
        for layer, width in widths.items():
            smaller = (width - 1) // multiple_of * multiple_of
            if smaller >= floor:
                options.append((_price(summed[layer], width, smaller), layer, smaller))
        _, layer, smaller = min(options)
        step = widths[layer] - smaller
        if step - excess >= excess:  # a step would end no closer
            return widths
        widths[layer] = smaller


def check_widths(widths: Mapping[int, int], *, total: int, multiple_of: int, min_width: int) -> int:
    """Refuse a total that no choice of widths comes down to, and return the lowest width allowed.

    Args:
        widths: layer -> neurons.
        total: How many neurons may stay.
        multiple_of: What every narrowed width is a multiple of.
        min_width: What no layer goes below.

    Raises:
        ValueError: The layers cannot be narrowed that far.
    """
    floor = -(-max(min_width, 1) // multiple_of) * multiple_of
    least = sum(min(width, floor) for width in widths.values())
    if least > total:
        raise ValueError(
            f"{total} neurons in all are fewer than min_width={min_width} and "
            f"multiple_of={multiple_of} allow in {len(widths)} layers ({least}); keep more "
            "neurons, or lower one of the two"
        )
    return floor


def _price(summed: torch.Tensor, width: int, smaller: int) -> float:
    """Return the mean cost of a neuron when a layer goes from one width to a smaller one."""
    neurons = len(summed)
    before = float(summed[neurons - width - 1]) if width < neurons else 0.0
    return (float(summed[neurons - smaller - 1]) - before) / (width - smaller)
