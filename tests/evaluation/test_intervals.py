"""Intervals hold the figure as often as they say, and know that queries are the same."""

from __future__ import annotations

import numpy as np
import pytest

from effir_integrations.evaluation.intervals import interval


def figures(values):
    return {f"q{place}": float(value) for place, value in enumerate(values)}


def test_an_interval_of_a_mean_is_that_of_the_normal_law_for_many_queries():
    values = np.random.default_rng(3).random(1000)
    low, high = interval(lambda mean: mean, figures(values))
    error = 1.96 * values.std() / 1000**0.5
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_intervals_hold_the_true_mean_nineteen_times_of_twenty():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = interval(lambda mean: mean, figures(random.beta(0.5, 0.5, 150)))
        held += low <= 0.5 <= high
    assert 180 <= held <= 198


def test_what_all_models_have_in_common_cancels():
    random = np.random.default_rng(1)
    hard = random.random(300)
    first, second = figures(hard), figures(hard - 0.01 * random.random(300))
    low, high = interval(np.subtract, first, second)
    assert 0.004 < low < high < 0.006
    assert interval(np.subtract, first, first) == (0.0, 0.0)


def test_order_of_queries_and_seed_are_all_that_the_draw_needs():
    values = figures(np.random.default_rng(2).random(40))
    turned = dict(reversed(values.items()))
    assert interval(np.divide, values, turned) == (1.0, 1.0)
    assert interval(lambda mean: mean, values) == interval(lambda mean: mean, turned)
    assert interval(lambda mean: mean, values, seed=1) != interval(lambda mean: mean, values)


def test_figures_of_other_queries_and_of_none_are_refused():
    with pytest.raises(ValueError, match="different queries; measure all models on the same"):
        interval(np.subtract, {"a": 1.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="no queries to draw from"):
        interval(np.subtract, {}, {})
