"""Try plans that meet targets, and choose one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..fields import check_fields
from ..model.identity import BaseIdentity
from ..model.plan import PruningPlan
from ..model.surgery import parameter_count
from .candidates import Candidate, Chooser, Limits
from .costs import Costs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .plan_config import PlanConfig
    from .trial import Trial

_CLOSE = 0.03
"""By how much the measured time may miss what was asked for, as a share of it."""
_CORRECTIONS = 2
_ESTIMATED = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the full model's time of which the table tells more than was asked for."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One plan: what it takes, and what it keeps."""

    drop_attention: tuple[int, ...]
    """Layers without attention."""
    mlp_widths: tuple[int, ...]
    """MLP neurons of every layer, 0 where the MLP goes."""
    parameters: int
    """Without LM head."""
    megabytes: float
    """Of the weights, without LM head."""
    latency: float
    """Time of a text, as a share of the full model's: timed in turns with it, or by the table."""
    error: float
    """What removing does to the residual stream, as a share of it, before anything is refitted."""
    measured: bool
    """Whether the plan was made, timed and judged, or all of this is estimated."""
    quality: float | None
    """Share of the full model's mean reciprocal rank of known items; None where no corpus was given
    to measure or estimate it by."""
    quality_interval: tuple[float, float] | None
    """95 %, over queries, where it was measured."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Planned:
    """What `plan` found."""

    plan: PruningPlan
    """The chosen one, ready for `export`."""
    points: tuple[Point, ...]
    """Plans that were made and measured, and others as estimated, the slowest first."""
    chosen: int
    """Place of the plan among the points."""
    costs: Costs
    """Milliseconds of the model's parts on this machine."""

    def __repr__(self) -> str:
        """Return a line for each point, the chosen one marked."""
        lines = [
            f"{place}{' <-' if place == self.chosen else ''}: {point}"
            for place, point in enumerate(self.points)
        ]
        return "\n".join([f"Planned({self.plan!r})", *lines])

    def _repr_html_(self) -> str:
        """Return the points and the chosen plan, as a notebook shows them."""
        from .points_table import planned_html

        return planned_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return all but the plan's tensors as plain JSON values."""
        return {
            "chosen": self.chosen,
            "points": [asdict(point) for point in self.points],
            "costs": asdict(self.costs),
        }


Found = tuple[Point, list[Point], PruningPlan]


def search_plans(trial: Trial, chooser: Chooser, config: PlanConfig) -> Found:
    """Return the chosen point, all that were measured, and the chosen plan.

    Raises:
        ValueError: No plan meets the targets.
    """
    limits = _limits(trial, chooser, config)
    if limits == Limits():
        tried = list(_by_quality(trial, chooser, config))
    else:
        tried = [measured(trial, *each) for each in _within(trial, chooser, config, limits)]
    wanted = config.keep_quality or 0.0
    good = [each for each in tried if (each[0].quality or 0.0) >= wanted]
    if config.keep_quality is not None and not good:
        nearest = max(tried, key=lambda each: each[0].quality or 0.0)[0]
        raise ValueError(
            f"no plan that was tried keeps {wanted:.1%} of the quality within the targets; the "
            f"nearest keeps {nearest.quality or 0:.1%} at {nearest.latency:.0%} of the time and "
            f"{nearest.parameters:,} parameters: lower keep_quality, or allow more"
        )
    if limits == Limits():
        point, made = min(good, key=lambda each: each[0].latency)
    else:
        point, made = max(good, key=lambda each: (each[0].quality or 0.0, -each[0].error))
    return point, [each[0] for each in tried], made


def check_size(model: PreTrainedModel, config: PlanConfig) -> None:
    """Refuse a number of parameters that no plan comes down to, before anything is measured.

    Raises:
        ValueError: It is one without any MLP and with one attention at most.
    """
    base, allowed = BaseIdentity.of(model), _allowed(model, config)
    attentions = [x for x in base.attention_parameters if x]
    least = base.parameters - sum(base.mlp_parameters) - sum(attentions) + min(attentions)
    if allowed is not None and allowed < least:
        raise _too_few(allowed, least, model)


def _limits(trial: Trial, chooser: Chooser, config: PlanConfig) -> Limits:
    full = chooser.costs.full
    limits = Limits(
        milliseconds=None if config.latency is None else config.latency * full,
        parameters=_allowed(trial.model, config),
    )
    fastest, smallest = chooser.least()
    if limits.milliseconds is not None and limits.milliseconds < fastest:
        raise ValueError(
            f"latency={config.latency} cannot be met: the fastest plan takes {fastest / full:.2f} "
            f"of the full model's {full:.2f} ms for a {config.role}; ask for more than that"
        )
    if limits.parameters is not None and limits.parameters < smallest:
        raise _too_few(limits.parameters, smallest, trial.model)
    return limits


def _allowed(model: PreTrainedModel, config: PlanConfig) -> int | None:
    """Return how many parameters may stay, or None where nothing is said of them."""
    found = []
    if config.keep_parameters is not None:
        found.append(config.keep_parameters * parameter_count(model))
    if config.memory is not None:
        found.append(config.memory * 1e6 / _bytes_each(model))
    return int(min(found)) if found else None


def _too_few(allowed: int, smallest: int, model: PreTrainedModel) -> ValueError:
    return ValueError(
        f"{allowed:,} parameters cannot be met: the smallest plan has {smallest:,} "
        f"({smallest / parameter_count(model):.2f} of all, "
        f"{smallest * _bytes_each(model) / 1e6:,.1f} MB); ask for more than that"
    )


def _bytes_each(model: PreTrainedModel) -> int:
    return int(model.dtype.itemsize)


def _within(
    trial: Trial, chooser: Chooser, config: PlanConfig, limits: Limits
) -> Iterator[tuple[Candidate, float]]:
    """Yield the best candidates, each brought to the time that was asked for, and their times."""
    best = chooser.candidates(limits)
    if trial.material.questions is None:
        best = best[:1]  # nothing could tell which of several is better
    for candidate in best[: config.candidates]:
        yield to_time(trial, chooser, candidate, limits)


def to_time(
    trial: Trial, chooser: Chooser, candidate: Candidate, limits: Limits
) -> tuple[Candidate, float]:
    """Return the candidate's frame at the width that takes the asked time when it is run."""
    asked, full = limits.milliseconds, chooser.costs.full
    taken = trial.latency(candidate)
    table = asked
    for _ in range(_CORRECTIONS):
        if asked is None or table is None or abs(taken * full / asked - 1) <= _CLOSE:
            break
        table *= asked / (taken * full)
        closer = chooser.again(candidate, replace(limits, milliseconds=table))
        if closer is None or closer == candidate:
            break
        candidate, taken = closer, trial.latency(closer)
    return candidate, taken


def _by_quality(
    trial: Trial, chooser: Chooser, config: PlanConfig
) -> Iterator[tuple[Point, PruningPlan]]:
    """Yield the plans that a search for the fastest one of enough quality comes by."""
    least = chooser.least()[0] / chooser.costs.full
    low, high = min(least, 0.99), 1.0
    for _ in range(config.candidates + 1):
        share = (low + high) / 2
        within = chooser.candidates(Limits(milliseconds=share * chooser.costs.full))
        point, made = measured(trial, *to_time(trial, chooser, within[0], Limits()))
        yield point, made
        if (point.quality or 0.0) >= (config.keep_quality or 0.0):
            high = share
        else:
            low = share


def measured(trial: Trial, candidate: Candidate, latency: float) -> tuple[Point, PruningPlan]:
    """Make a plan and judge it, and return what it came to.

    Args:
        trial: Of the model.
        candidate: What goes.
        latency: As it was timed, as a share of the full model's.
    """
    made = trial.make(candidate)
    quality = trial.quality(made)
    point = Point(
        drop_attention=candidate.drop_attention,
        mlp_widths=candidate.widths,
        parameters=made.parameters,
        megabytes=made.parameters * _bytes_each(trial.model) / 1e6,
        latency=latency,
        error=candidate.error,
        measured=True,
        quality=None if quality is None else quality.share,
        quality_interval=None if quality is None else quality.interval,
    )
    return point, made


def estimated(trial: Trial, chooser: Chooser, points: list[Point]) -> list[Point]:
    """Return more points of the front, with what the measured ones let expect of them.

    Quality is taken to fall in proportion to the error, as it fell in the measured points.
    """
    known = [x for x in points if x.quality is not None]
    squares = sum(x.error**2 for x in known)
    slope = sum((1 - (x.quality or 0.0)) * x.error for x in known) / squares if squares else None
    front = []
    for share in _ESTIMATED:
        within = chooser.candidates(Limits(milliseconds=share * chooser.costs.full))
        if within:
            best = within[0]
            front.append(
                Point(
                    drop_attention=best.drop_attention,
                    mlp_widths=best.widths,
                    parameters=best.parameters,
                    megabytes=best.parameters * _bytes_each(trial.model) / 1e6,
                    latency=best.milliseconds / chooser.costs.full,
                    error=best.error,
                    measured=False,
                    quality=None if slope is None else max(0.0, min(1.0, 1 - slope * best.error)),
                    quality_interval=None,
                )
            )
    return front
