"""Streamed moments and the fit on them against the same thing done in one go in fp64."""

from __future__ import annotations

import pytest
import torch

from effir_integrations.pruning.moments import Moments, accumulator_device, ridge_strength

CPU = torch.device("cpu")


@pytest.fixture
def data():
    """Tokens `x` with a mean, targets `y` that are nearly linear in them, and weights."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 6, generator=generator) + 2
    true = torch.randn(4, 6, generator=generator)
    y = x @ true.T + 5 + 0.1 * torch.randn(300, 4, generator=generator)
    return x, y, torch.rand(300, generator=generator) + 0.1


def streamed(x, y, weight, sizes=(1, 99, 200)):
    moments = Moments(x.shape[1], y.shape[1], CPU)
    for part in zip(x.split(sizes), weight.split(sizes), y.split(sizes), strict=True):
        moments.add(*part)
    return moments


@pytest.mark.parametrize("centred", [True, False])
def test_streaming_gives_the_weighted_gram_matrix_of_all_tokens(data, centred):
    x, y, weight = data
    moments = streamed(x, y, weight)
    x, weight = x.double(), weight.double()
    mean = weight @ x / weight.sum()
    about = x - mean if centred else x
    expected = (about * weight[:, None]).T @ about / weight.sum()
    torch.testing.assert_close(moments.gram(centred=centred), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.mean, mean, rtol=1e-5, atol=1e-5)


def test_taking_the_gram_matrix_does_not_change_the_sums(data):
    moments = streamed(*data)
    first = moments.gram(centred=True).add_(1)
    assert torch.equal(moments.gram(centred=True) + 1, first)


@pytest.mark.parametrize("centred", [True, False])
def test_a_gram_matrix_that_takes_the_place_of_the_sums_is_the_same(data, centred):
    kept, used = streamed(*data), streamed(*data)
    assert torch.equal(used.take_gram(centred=centred), kept.gram(centred=centred))


@pytest.mark.parametrize("inputs", [255, 256, 257, 700, 2100])
def test_both_halves_of_a_wide_gram_matrix_are_filled(inputs):
    """Products are taken for one half, in blocks; tokens may come after it was looked at."""
    generator = torch.Generator().manual_seed(inputs)
    x, y = torch.randn(40, inputs, generator=generator), torch.randn(40, 3, generator=generator)
    weight = torch.rand(40, generator=generator)
    moments = Moments(inputs, 3, torch.device("cpu"))
    for part in (slice(0, 25), slice(25, 40)):
        moments.add(x[part], weight[part], y[part])
        gram = moments.gram(centred=False)
    expected = (x.double() * weight.double()[:, None]).T @ x.double() / weight.double().sum()
    torch.testing.assert_close(gram, expected, rtol=1e-5, atol=1e-5)
    # sums of another order are rounded otherwise within a block on the diagonal
    torch.testing.assert_close(gram, gram.T, rtol=0, atol=1e-6)
    prior = torch.randn(3, inputs, generator=generator)
    lost = (x.double() @ prior.double().T - y.double()).square().sum(1) @ weight.double()
    spread = y.double() - weight.double() @ y.double() / weight.double().sum()
    variance = spread.square().sum(1) @ weight.double()
    assert moments.error(prior, None) == pytest.approx(float(lost / variance), rel=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_the_fit_is_the_weighted_least_squares_solution(data, bias):
    x, y, weight = data
    made, offset = streamed(x, y, weight).fit(torch.zeros(4, 6), ridge=1e-9, bias=bias)
    columns = torch.cat([x, torch.ones(300, 1)], dim=1) if bias else x
    root = weight.double().sqrt()[:, None]
    expected = torch.linalg.lstsq(columns.double() * root, y.double() * root).solution.T
    torch.testing.assert_close(made, expected[:, :6], rtol=1e-3, atol=1e-3)
    if offset is None:
        assert not bias
    else:
        torch.testing.assert_close(offset, expected[:, 6], rtol=1e-3, atol=1e-3)


def test_a_strong_ridge_pulls_to_the_prior_and_not_to_zero(data):
    prior = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    made, _ = streamed(*data).fit(prior, ridge=1e7, bias=True)
    torch.testing.assert_close(made, prior.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_the_error_is_the_share_of_the_weighted_variance_that_is_missed(data, bias):
    x, y, weight = data
    moments = streamed(x, y, weight)
    made, offset = torch.randn(4, 6), torch.randn(4) if bias else None
    missed = x @ made.T + (offset if bias else 0) - y
    mean = weight @ y / weight.sum()
    expected = (weight @ missed.square()).sum() / (weight @ (y - mean).square()).sum()
    assert moments.error(made, offset) == pytest.approx(float(expected), rel=1e-4)


def test_a_fit_errs_less_than_its_prior(data):
    moments, prior = streamed(*data), torch.zeros(4, 6)
    assert moments.error(*moments.fit(prior, ridge=1e-3, bias=True)) < 0.01
    assert moments.error(prior, torch.zeros(4)) > 1


def test_half_precision_tokens_are_summed_in_double():
    moments = Moments(1, 0, CPU)
    for _ in range(300):
        moments.add(torch.full((1, 1), 1.0, dtype=torch.bfloat16), torch.ones(1))
    # bf16 sums of ones stop at 256
    assert moments.weight == 300
    assert float(moments.mean) == 1.0
    assert moments.gram(centred=False).dtype == torch.float64


def test_sums_within_a_batch_lose_no_token_either():
    moments = Moments(1, 3, CPU)
    # fp32 holds whole numbers up to 2^24
    moments.add(torch.zeros(3, 1), torch.tensor([2.0**24, 1, 1]), torch.zeros(3, 3))
    assert moments.weight == 2**24 + 2
    moments.add(torch.zeros(1, 1), torch.ones(1), torch.tensor([[4096.0, 1, 1]]))
    assert moments._yy == 2**24 + 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bf16", "fp64"])
def test_inputs_and_targets_may_come_in_any_precision(data, dtype):
    x, y, weight = (values.to(dtype) for values in data)
    found = streamed(x, y, weight.float()).fit(torch.zeros(4, 6, dtype=dtype), ridge=0.1, bias=True)
    expected = streamed(x.float(), y.float(), weight.float()).fit(
        torch.zeros(4, 6), ridge=0.1, bias=True
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30], ids=str)
@pytest.mark.parametrize("where", ["inputs", "targets"])
def test_inputs_and_targets_that_are_not_finite_or_overflow_are_noticed(where, value):
    moments = Moments(2, 2, CPU)
    values = {"inputs": torch.ones(3, 2), "targets": torch.ones(3, 2)}
    moments.add(values["inputs"], torch.ones(3), values["targets"])
    assert moments.finite
    values[where][1, 1] = value
    moments.add(values["inputs"], torch.ones(3), values["targets"])
    assert not moments.finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_noticed(value):
    moments = Moments(2, 0, CPU)
    moments.add(torch.ones(3, 2), torch.ones(3))
    assert moments.finite
    moments.add(torch.tensor([[1.0, value]]), torch.ones(1))
    assert not moments.finite


def test_a_system_that_the_ridge_does_not_make_solvable_is_refused():
    moments = Moments(2, 1, CPU)
    moments.add(torch.full((4, 2), float("nan")), torch.ones(4), torch.ones(4, 1))
    with pytest.raises(RuntimeError, match=r"2 neurons kept are too alike .* ridge=0.001; raise"):
        moments.fit(torch.zeros(1, 2), ridge=1e-3, bias=False)


def test_twins_are_fitted_with_a_ridge():
    x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(50, 2)
    moments = Moments(2, 1, CPU)
    moments.add(x, torch.ones(50), x[:, :1])
    weight, _ = moments.fit(torch.zeros(1, 2), ridge=1e-6, bias=True)
    torch.testing.assert_close(weight, torch.full((1, 2), 0.5).double(), rtol=1e-4, atol=1e-4)


def test_the_ridge_is_a_share_of_the_mean_diagonal_and_one_where_all_is_silent():
    assert ridge_strength(torch.diag(torch.tensor([1.0, 3.0])), 0.1) == pytest.approx(0.2)
    assert ridge_strength(torch.zeros(2, 2), 0.1) == 1.0


def test_a_diagonal_that_rounding_made_negative_counts_as_silent():
    assert ridge_strength(torch.full((2, 2), -1e-20), 0.1) == 1.0
    assert ridge_strength(torch.diag(torch.tensor([0.25, 0.75])), 0.1) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu"), ("xpu", "cpu")]
)
def test_sums_live_on_the_device_where_that_has_doubles(device, expected):
    assert accumulator_device(torch.device(device)) == torch.device(expected)


def constant(value, tokens=4):
    """Return moments of one neuron that is 1 and one target that is `value`, at every token."""
    moments = Moments(1, 1, CPU)
    moments.add(torch.ones(tokens, 1), torch.ones(tokens), torch.full((tokens, 1), value))
    return moments


def test_the_error_on_a_target_that_does_not_vary_is_nothing_or_all():
    moments = constant(2.0)
    assert moments.error(torch.tensor([[2.0]]), None) == 0.0
    assert moments.error(torch.tensor([[1.0]]), torch.tensor([1.0])) == 0.0
    for missing in (0.25, 1.0, 3.0):
        assert moments.error(torch.tensor([[2.0 - missing]]), None) == 1.0
    rounded = constant(1.7)
    assert rounded._yy < float(rounded._y) ** 2 / rounded.weight, "its variance is not negative"
    assert rounded.error(torch.tensor([[0.0]]), None) == 1.0


def test_the_error_does_not_depend_on_the_unit_of_the_target(data):
    x, y, weight = data
    made = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    expected = streamed(x, y, weight).error(made, None)
    for unit in (1e-4, 1e4):
        found = streamed(x, unit * y, weight).error(unit * made, None)
        assert found == pytest.approx(expected, rel=1e-4)


def test_rounding_makes_no_error_negative():
    errors = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x, true = (torch.randn(rows, 3, generator=generator) for rows in (50, 2))
        moments = streamed(x, x @ true.T, torch.ones(50), sizes=(50,))
        errors.append(moments.error(true, None))
    assert min(errors) == 0.0
    assert 0.0 < max(errors) < 1e-6
