"""Under a budget, what is cheapest for what it saves goes first."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_costs import costs
from tiny import tiny_model

from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import ImportanceReport, PruningPlan
from effir_integrations.pruning.candidates import Chooser, Limits
from effir_integrations.pruning.costs import dropped_mlps
from effir_integrations.pruning.ranking import Removal

STEP = 8


@pytest.fixture(scope="module")
def base():
    return BaseIdentity.of(tiny_model("llama"), "base")


def chooser(base, *, uniform=False, slope=(1.0, 2.0, 4.0, 8.0), table=None):
    width, layers = base.mlp_widths[0], base.layers
    removals = {
        layer: Removal(
            order=torch.arange(width),
            cost=slope[layer] * torch.linspace(0.1, 2, width, dtype=torch.float64),
        )
        for layer in range(layers)
    }
    report = ImportanceReport(
        base=base,
        calibration={},
        attention=tuple(0.01 * (1 + x) for x in range(layers)),
        mlp=(0.0,) * layers,
        block=tuple(0.3 * (layers - x) for x in range(layers)),
    )
    table = table or costs(
        mlp_widths=base.mlp_widths, attentions=layers, shares=(0.0, 1.0), mlp=(0.0, 8.0)
    )
    return Chooser(base, report, removals, table, texts=1, multiple_of=STEP, uniform=uniform)


def test_sizes_are_those_of_the_plan(base):
    for found in chooser(base).candidates(Limits(parameters=int(0.9 * base.parameters))):
        plan = PruningPlan(
            base=base,
            drop_mlp=dropped_mlps(base, found.widths),
            drop_attention=found.drop_attention,
            neurons={
                x: torch.arange(w) for x, w in enumerate(found.widths) if 0 < w < base.mlp_widths[x]
            },
        )
        assert found.parameters == plan.parameters <= 0.9 * base.parameters


def test_within_a_time_no_plan_of_the_frame_has_a_smaller_error(base):
    own = chooser(base)
    budget = 0.7 * own.costs.full
    found = next(
        x
        for x in own.candidates(Limits(milliseconds=budget))
        if not x.drop_attention and len(set(x.widths)) > 1
    )
    assert found.milliseconds <= budget
    width = base.mlp_widths[0]
    errors = {
        (layer, left): float(own._layers[layer].error[own._layers[layer].widths.index(left)])
        for layer in range(base.layers)
        for left in own._layers[layer].widths
    }
    every = itertools.product(range(0, width + 1, STEP), repeat=base.layers)
    least = min(
        sum(errors[layer, left] for layer, left in enumerate(widths))
        for widths in every
        if own.costs.of(widths, 0) <= budget
    )
    # costs grow evenly and errors ever faster, where taking the cheapest step is best
    assert found.error == pytest.approx(least, rel=0.05)


def test_layers_whose_neurons_matter_stay_wider(base):
    found = chooser(base).candidates(Limits(milliseconds=0.6 * chooser(base).costs.full))
    narrow = next(x for x in found if len(set(x.widths)) > 1 and not x.drop_attention)
    assert list(narrow.widths) == sorted(narrow.widths)


def test_a_width_that_saves_no_time_is_stepped_over(base):
    flat = costs(
        mlp_widths=base.mlp_widths,
        attentions=base.layers,
        shares=(0.0, 0.5, 1.0),
        mlp=(0.0, 8.0, 8.0),
    )
    own = chooser(base, table=flat)
    found = own.candidates(Limits(milliseconds=flat.full - 1.5))
    half = base.mlp_widths[0] // 2
    assert not any(
        half <= width < 2 * half for x in found for width in x.widths if len(set(x.widths)) > 1
    )


def test_a_stock_plan_has_one_width_and_loses_whole_blocks(base):
    own = chooser(base, uniform=True)
    found = own.candidates(Limits(milliseconds=0.7 * own.costs.full))
    assert len(found) > 1
    for each in found:
        left = {width for width in each.widths if width}
        assert len(left) == 1
        assert each.drop_attention == dropped_mlps(base, each.widths)


def test_a_frame_is_found_again_within_other_limits(base):
    own = chooser(base)
    first = own.candidates(Limits(milliseconds=0.8 * own.costs.full))[0]
    again = own.again(first, Limits(milliseconds=0.6 * own.costs.full))
    assert again.frame == first.frame
    assert again.milliseconds <= 0.6 * own.costs.full < first.milliseconds
    assert own.again(first, Limits(milliseconds=0.0)) is None


def test_the_least_is_where_no_budget_below_can_be_met(base):
    own = chooser(base)
    milliseconds, parameters = own.least()
    assert own.candidates(Limits(milliseconds=milliseconds))
    assert not own.candidates(Limits(milliseconds=milliseconds - 0.01))
    assert own.candidates(Limits(parameters=parameters))
    assert not own.candidates(Limits(parameters=parameters - 1))
