"""Which sublayers and neurons go first under a budget of time or parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..model.identity import BaseIdentity
from ..model.plan import ImportanceReport
from .costs import Costs
from .ranking import Removal

_STEPS = 64
"""Widths of a layer that are looked at, so that wide models do not take longer."""
_LEAST_SAVING = 1e-12

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a plan may cost; None is no limit."""

    milliseconds: float | None = None
    """Of a text."""
    parameters: int | None = None
    """Without LM head."""

    def allow(self, candidate: Candidate) -> bool:
        """Say whether a plan is within the limits."""
        slow = self.milliseconds is not None and candidate.milliseconds > self.milliseconds
        large = self.parameters is not None and candidate.parameters > self.parameters
        return not (slow or large)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan before its projections are refitted."""

    drop_attention: tuple[int, ...]
    """Layers without attention."""
    widths: tuple[int, ...]
    """MLP neurons of every layer, 0 where the MLP goes."""
    milliseconds: float
    """Of a text, by the table of costs."""
    parameters: int
    """Without LM head."""
    error: float
    """What removing does to the residual stream, mean squared, as a share of it: the sum over
    neurons and sublayers of what each does alone."""
    frame: Frame | None = None
    """What it is a narrower or wider form of."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Sublayers that go as a whole, and how the MLPs left are narrowed."""

    attention: tuple[int, ...]
    blocks: tuple[int, ...]
    uniform: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """What the MLP of one layer costs at each width that it can have, the widest first."""

    widths: list[int]
    error: Floats
    milliseconds: Floats
    parameters: Floats

    def step(self, at: int, timed: bool) -> tuple[float, int]:
        """Return the least error for what a narrower width saves, and the place of that width."""
        resource = self.milliseconds if timed else self.parameters
        saved = np.maximum(resource[at] - resource[at + 1 :], _LEAST_SAVING)
        prices = (self.error[at + 1 :] - self.error[at]) / saved
        best = int(prices.argmin())
        return float(prices[best]), at + 1 + best


class Chooser:
    """Narrows MLPs step by step, for every number of attentions or blocks that go."""

    def __init__(
        self,
        base: BaseIdentity,
        report: ImportanceReport,
        removals: Mapping[int, Removal],
        costs: Costs,
        *,
        texts: int,
        multiple_of: int,
        uniform: bool = False,
    ) -> None:
        """Bring what neurons and sublayers cost to one unit.

        Args:
            base: The full model.
            report: Importance of its sublayers.
            removals: Layer -> in which order neurons go, and at what cost in all texts together.
            costs: Milliseconds.
            texts: How many were ranked on.
            multiple_of: What narrowed widths are multiples of.
            uniform: Whole blocks and one width alone, so that the result is a stock model.
        """
        self.base, self.report, self.costs, self.uniform = base, report, costs, uniform
        self._layers = {
            layer: self._layer(layer, removal, base.hidden_size * texts, multiple_of)
            for layer, removal in removals.items()
        }
        self._path = lru_cache(maxsize=None)(self._narrowed)

    def candidates(self, limits: Limits) -> list[Candidate]:
        """Return the best plan of every frame that can be brought within limits, best first."""
        timed = limits.milliseconds is not None
        first = (
            next(filter(limits.allow, self._path(frame, timed)), None) for frame in self._frames()
        )
        found = {(x.drop_attention, x.widths): x for x in first if x is not None}.values()
        return sorted(found, key=lambda x: (x.error, x.milliseconds))

    def again(self, candidate: Candidate, limits: Limits) -> Candidate | None:
        """Return the same frame within other limits, or None where it cannot be."""
        if candidate.frame is None:
            return None
        path = self._path(candidate.frame, limits.milliseconds is not None)
        return next(filter(limits.allow, path), None)

    def least(self) -> tuple[float, int]:
        """Return the fewest milliseconds, and the fewest parameters, that a plan can have."""
        ends = [self._path(frame, True)[-1] for frame in self._frames()]
        return min(x.milliseconds for x in ends), min(x.parameters for x in ends)

    def _layer(self, layer: int, removal: Removal, scale: int, multiple_of: int) -> _Layer:
        width = self.base.mlp_widths[layer]
        step = max(multiple_of, round(width / _STEPS / multiple_of) * multiple_of)
        widths = [width, *range((width - 1) // step * step, 0, -step), 0]
        summed = np.concatenate([[0.0], removal.cost.cumsum(0).numpy() / scale])
        error = summed[[width - x for x in widths]]
        # with the sublayer its bias goes too, which the sum over neurons does not know
        error[-1] = max(error[-1], _turned(self.report.mlp[layer]))
        others = [0] * self.base.layers
        rest = self.costs.of(others, 0)
        alone = [[*others[:layer], x, *others[layer + 1 :]] for x in widths]
        parameters = [x * self.base.neuron_parameters for x in widths]
        # what a sublayer has beside its neurons goes with the last of them
        beside = self.base.mlp_parameters[layer] - parameters[0]
        return _Layer(
            widths=widths,
            error=error,
            milliseconds=np.array([self.costs.of(x, 0) - rest for x in alone]),
            parameters=np.array([x + beside * (x > 0) for x in parameters], dtype=np.float64),
        )

    def _frames(self) -> Iterator[Frame]:
        attentions, layers = self.report.order("attention"), self.report.order("block")
        alike = len({self.base.mlp_widths[x] for x in self._layers}) == 1
        ways = [True] if self.uniform else [False, True] if alike else [False]
        for uniform in ways:
            for count in range(1 if self.uniform else len(attentions)):
                gone = tuple(sorted(attentions[:count]))
                yield Frame(attention=gone, blocks=(), uniform=uniform)
            for count in range(1, len(layers)):
                blocks = tuple(sorted(layers[:count]))
                gone = tuple(x for x in blocks if x in attentions)
                if len(gone) < len(attentions):
                    yield Frame(attention=gone, blocks=blocks, uniform=uniform)

    def _narrowed(self, frame: Frame, timed: bool) -> list[Candidate]:
        """Return the plans of a frame from the widest to the narrowest."""
        layers = {x: layer for x, layer in self._layers.items() if x not in frame.blocks}
        at = dict.fromkeys(layers, 0)
        path = [self._candidate(frame, layers, at)]
        if frame.uniform:
            steps = len(next(iter(layers.values())).widths) if layers else 0
            # a stock model has MLPs, so the last of them stay
            for place in range(1, steps - 1):
                path.append(self._candidate(frame, layers, dict.fromkeys(layers, place)))
            return path
        options = {x: layer.step(0, timed) for x, layer in layers.items()}
        while options:
            layer = min(options, key=lambda x: (options[x][0], x))
            at[layer] = options.pop(layer)[1]
            if at[layer] + 1 < len(layers[layer].widths):
                options[layer] = layers[layer].step(at[layer], timed)
            path.append(self._candidate(frame, layers, at))
        return path

    def _candidate(
        self, frame: Frame, layers: Mapping[int, _Layer], at: Mapping[int, int]
    ) -> Candidate:
        base = self.base
        widths = {x: layer.widths[at[x]] for x, layer in layers.items()}
        alone = [x for x in frame.attention if x not in frame.blocks]
        whole = [_turned(self.report.block[x]) for x in frame.blocks]
        whole += [_turned(self.report.attention[x]) for x in alone]
        parameters = base.parameters - sum(base.attention_parameters[x] for x in frame.attention)
        parameters -= sum(base.mlp_parameters[x] for x in self._layers)
        parameters += int(sum(layer.parameters[at[x]] for x, layer in layers.items()))
        return Candidate(
            drop_attention=frame.attention,
            widths=tuple(widths.get(x, 0) for x in range(base.layers)),
            milliseconds=self.costs.of([0] * base.layers, len(frame.attention))
            + float(sum(layer.milliseconds[at[x]] for x, layer in layers.items())),
            parameters=parameters,
            error=float(sum(whole) + sum(layer.error[at[x]] for x, layer in layers.items())),
            frame=frame,
        )


def _turned(score: float | None) -> float:
    """Return the squared step, as a share of the stream, that turns it by `1 - cosine`."""
    return 2 * (score or 0.0)
