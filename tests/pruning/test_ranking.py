"""Elimination against a naive reference that refits from scratch; widths against their promises."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from effir_integrations.pruning import ranking
from effir_integrations.pruning.moments import ridge_strength
from effir_integrations.pruning.ranking import (
    Removal,
    _price,
    check_widths,
    choose_widths,
    rank_alone,
    rank_together,
)

RIDGE = 1e-3


def correlated(neurons=12, outputs=5, seed=0):
    """Return a Gram matrix with strong correlations, and a projection, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(neurons, neurons, generator=generator, dtype=torch.float64)
    tokens = torch.randn(400, neurons, generator=generator, dtype=torch.float64) @ mixing
    weight = torch.randn(outputs, neurons, generator=generator, dtype=torch.float64)
    return tokens.T @ tokens / len(tokens), weight


def refit_error(gram, weight, kept, strength):
    """Return the least of |(V - W) a|^2 + strength |V - W|^2 over V that only reads `kept`."""
    hessian = gram + strength * torch.eye(len(gram), dtype=gram.dtype)
    gone = [neuron for neuron in range(len(gram)) if neuron not in kept]
    refitted = torch.zeros_like(weight)
    moved = hessian[kept][:, gone] @ weight[:, gone].T
    refitted[:, kept] = weight[:, kept] + torch.linalg.solve(hessian[kept][:, kept], moved).T
    change = refitted - weight
    return float((change @ hessian * change).sum())


def greedy(gram, weight, strength):
    """Remove, each time, the neuron whose loss costs least after a refit from scratch."""
    kept, order, errors = list(range(len(gram))), [], [0.0]
    while kept:
        trials = {
            neuron: refit_error(gram, weight, [x for x in kept if x != neuron], strength)
            for neuron in kept
        }
        neuron = min(trials, key=trials.__getitem__)
        kept.remove(neuron)
        order.append(neuron)
        errors.append(trials[neuron])
    return order, torch.tensor(errors, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("block", [3, 64])
def test_elimination_matches_refitting_from_scratch_at_every_step(seed, block):
    gram, weight = correlated(seed=seed)
    order, errors = greedy(gram, weight, ridge_strength(gram, RIDGE))
    # a block of 3 looks at all 12 neurons, so its choice is the greedy one too
    removal = rank_together(gram, weight, RIDGE, block=block)
    assert removal.order.tolist() == order
    torch.testing.assert_close(removal.cost.cumsum(0), errors[1:], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_the_cheapest_of_all_neurons_goes_whatever_the_unit_of_activations(unit):
    gram, weight = correlated(neurons=24)
    gram = gram * unit**2
    order, errors = greedy(gram, weight, ridge_strength(gram, RIDGE))
    removal = rank_together(gram, weight, RIDGE, block=1)
    assert removal.order.tolist() == order
    torch.testing.assert_close(removal.cost.cumsum(0), errors[1:], rtol=1e-6, atol=1e-12)


def test_a_block_looks_at_four_neurons_for_each_that_it_removes(monkeypatch):
    looked, honest = [], ranking._eliminate

    def watched(inverse, weight, steps):
        looked.append((*inverse.shape, *weight.shape, steps))
        return honest(inverse, weight, steps)

    monkeypatch.setattr(ranking, "_eliminate", watched)
    rank_together(*correlated(neurons=21), RIDGE, block=3)
    sizes = [12, 12, 12, 12, 9, 6, 3]
    # what columns have in common needs no more rows than there are columns
    assert looked == [(size, size, min(5, size), size, 3) for size in sizes]


@pytest.mark.parametrize("block", [1, 2, 5])
def test_costs_are_exact_for_the_set_removed_whatever_the_block(block):
    gram, weight = correlated(neurons=24)
    removal = rank_together(gram, weight, RIDGE, block=block)
    assert sorted(removal.order.tolist()) == list(range(24))
    summed = removal.cost.cumsum(0)
    for width in (20, 11, 3):
        kept = removal.kept(width).tolist()
        expected = refit_error(gram, weight, kept, ridge_strength(gram, RIDGE))
        assert float(summed[24 - width - 1]) == pytest.approx(expected, rel=1e-6)


def test_a_copy_of_a_neuron_goes_first_at_next_to_no_cost():
    gram, weight = correlated()
    twin = torch.cat([torch.eye(12, dtype=torch.float64), torch.eye(12, dtype=torch.float64)[:1]])
    gram = twin @ gram @ twin.T
    weight = torch.cat([weight, 100 * weight[:, 3:4]], dim=1)
    removal = rank_together(gram, weight, 1e-9)
    assert int(removal.order[0]) in (0, 12)
    assert float(removal.cost[0]) < 1e-3 * float(removal.cost[1])
    # taken alone, the twin with the large weights looks like the neuron that matters
    assert int(rank_alone(gram.diagonal() * weight.square().sum(0)).order[0]) != 12


def test_ranking_leaves_its_arguments_alone():
    gram, weight = correlated()
    before = gram.clone(), weight.clone()
    rank_together(gram, weight, RIDGE)
    assert torch.equal(gram, before[0])
    assert torch.equal(weight, before[1])


def test_silent_neurons_can_be_ranked():
    removal = rank_together(
        torch.zeros(4, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64), RIDGE
    )
    assert removal.order.tolist() == [0, 1, 2, 3]
    assert bool(removal.cost.isfinite().all())


def test_ranking_alone_sorts_by_energy_and_ties_go_by_neuron():
    removal = rank_alone(torch.tensor([3.0, 1.0, 2.0, 1.0], dtype=torch.float64))
    assert removal.order.tolist() == [1, 3, 2, 0]
    assert removal.cost.tolist() == [1.0, 1.0, 2.0, 3.0]
    assert removal.kept(2).tolist() == [0, 2]


def test_a_removal_is_made_by_name_and_stays_as_it_is():
    order, cost = torch.arange(3), torch.ones(3)
    with pytest.raises(TypeError, match="positional"):
        Removal(order, cost)
    removal = Removal(order=order, cost=cost)
    with pytest.raises(dataclasses.FrozenInstanceError):
        removal.cost = 2 * cost
    assert removal == removal
    assert removal != Removal(order=order, cost=cost)


def removals(**costs):
    """Return {layer: Removal} from ascending costs; keywords are l0, l1, ..."""
    return {
        int(name[1:]): Removal(
            order=torch.arange(len(cost)), cost=torch.tensor(cost, dtype=torch.float64)
        )
        for name, cost in costs.items()
    }


def test_the_cheaper_layer_gives_the_neurons():
    given = removals(l0=[10.0] * 8, l2=[1.0] * 8)
    assert choose_widths(given, total=10, multiple_of=2, min_width=1) == {0: 8, 2: 2}


def test_no_layer_goes_below_the_least_width():
    given = removals(l0=[10.0] * 8, l2=[1.0] * 8)
    assert choose_widths(given, total=12, multiple_of=2, min_width=5) == {0: 6, 2: 6}


@pytest.mark.parametrize(("total", "expected"), [(32, 32), (21, 20), (23, 24), (13, 12)])
def test_widths_are_multiples_and_their_sum_comes_as_close_as_these_allow(total, expected):
    cost = torch.rand(20, generator=torch.Generator().manual_seed(0)).sort().values.tolist()
    widths = choose_widths(removals(l0=cost, l1=cost), total=total, multiple_of=4, min_width=1)
    assert all(width % 4 == 0 for width in widths.values())
    assert sum(widths.values()) == expected


def test_the_first_step_brings_an_odd_width_to_a_multiple():
    given = removals(l0=[1.0] * 10)
    assert choose_widths(given, total=8, multiple_of=4, min_width=1) == {0: 8}


@pytest.mark.parametrize(
    ("total", "width"), [(16, 8), (12, 6), (11, 6), (10, 5), (9, 4), (8, 4), (4, 2)]
)
def test_one_width_for_all_comes_as_close_as_multiples_allow(total, width):
    given = removals(l0=[1.0] * 8, l1=[9.0] * 8)
    multiple = 1 if width == 5 else 2
    widths = choose_widths(given, total=total, multiple_of=multiple, min_width=1, uniform=True)
    assert widths == {0: width, 1: width}


def test_one_width_for_all_is_no_wider_than_the_narrowest_layer():
    given = removals(l0=[1.0] * 9, l1=[1.0] * 5)
    assert choose_widths(given, total=14, multiple_of=2, min_width=1, uniform=True) == {0: 5, 1: 5}
    with pytest.raises(ValueError, match="fewer than min_width"):
        choose_widths(given, total=3, multiple_of=4, min_width=1, uniform=True)


def test_a_total_that_the_least_widths_exceed_is_refused():
    with pytest.raises(ValueError, match=r"2 neurons in all are fewer than min_width=1 .* \(8\)"):
        choose_widths(removals(l0=[1.0] * 8, l1=[1.0] * 8), total=2, multiple_of=4, min_width=1)


def test_more_neurons_than_there_are_leave_all():
    given = removals(l0=[1.0] * 8, l1=[1.0] * 7)
    for total in (15, 16, 100):
        assert choose_widths(given, total=total, multiple_of=4, min_width=1) == {0: 8, 1: 7}


def test_of_two_widths_that_are_equally_close_the_larger_stays():
    given = removals(l0=[1.0] * 8)
    widths = {
        total: choose_widths(given, total=total, multiple_of=4, min_width=1)[0]
        for total in (7, 6, 5, 4)
    }
    assert widths == {7: 8, 6: 8, 5: 4, 4: 4}


@pytest.mark.parametrize(
    ("multiple_of", "min_width", "least"),
    [(1, 0, 1), (1, 1, 1), (1, 3, 3), (4, 0, 4), (4, 1, 4), (4, 4, 4), (4, 5, 8), (3, 7, 9)],
)
def test_the_least_width_is_the_first_multiple_that_is_allowed(multiple_of, min_width, least):
    limits = {"multiple_of": multiple_of, "min_width": min_width}
    assert check_widths({0: 12, 1: 12}, total=2 * least, **limits) == least
    given = removals(l0=[1.0] * 12, l1=[1.0] * 12)
    assert choose_widths(given, total=2 * least, **limits) == {0: least, 1: least}
    with pytest.raises(ValueError, match=rf"in 2 layers \({2 * least}\)"):
        check_widths({0: 12, 1: 12}, total=2 * least - 1, **limits)


def test_a_layer_that_is_narrower_than_the_least_width_stays_as_it_is():
    given = removals(l0=[1.0] * 3, l1=[5.0] * 12)
    assert choose_widths(given, total=7, multiple_of=4, min_width=4) == {0: 3, 1: 4}
    with pytest.raises(ValueError, match=r"in 2 layers \(7\)"):
        choose_widths(given, total=6, multiple_of=4, min_width=4)


def test_the_price_of_a_step_is_the_mean_cost_of_the_neurons_that_it_takes():
    summed = torch.tensor([1.0, 2.0, 4.0, 5.0, 6.0]).double().cumsum(0)
    assert _price(summed, 5, 4) == 1.0
    assert _price(summed, 5, 3) == 1.5
    assert _price(summed, 4, 2) == 3.0
    assert _price(summed, 3, 1) == 4.5
    assert _price(summed, 1, 0) == 6.0


def test_steps_of_several_neurons_compete_by_what_each_neuron_costs():
    # after l0's cheap quarter, its next one costs more than either of l1's
    given = removals(l0=[1.0] * 4 + [6.0] * 8, l1=[2.0] * 4 + [5.0] * 4 + [7.0] * 4)
    chosen = [
        choose_widths(given, total=total, multiple_of=4, min_width=4)
        for total in (24, 20, 16, 12, 8)
    ]
    assert chosen == [{0: 12, 1: 12}, {0: 8, 1: 12}, {0: 8, 1: 8}, {0: 8, 1: 4}, {0: 4, 1: 4}]
    # one step takes ten neurons from l0, at a lower price each than the three that l1 would give
    given = removals(l0=[2.0] * 30, l1=[3.0] * 13)
    assert choose_widths(given, total=33, multiple_of=10, min_width=1) == {0: 20, 1: 13}
