"""Moments of activations, added up in fp64 while tokens stream by, and the ridge fit on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def accumulator_device(device: torch.device) -> torch.device:
    """Return where fp64 sums of tensors on `device` live: not every accelerator has fp64."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def ridge_strength(gram: torch.Tensor, ridge: float) -> float:
    """Return what is added to the diagonal of `gram`: a share of its mean.

    A layer whose neurons are all silent has a zero diagonal; one keeps its system solvable.
    """
    mean = float(gram.diagonal().mean())
    return ridge * mean if mean > 0 else 1.0


class Moments:
    """First and second moments of inputs `x` and, where there are any, of targets `y`.

    Memory is `inputs * (inputs + outputs)` fp64 numbers, whatever the number of tokens. The
    products of a batch are taken in fp32, their sums in fp64.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        """Start with no token; `outputs` may be 0."""
        where: dict[str, Any] = {"dtype": torch.float64, "device": accumulator_device(device)}
        self.weight = 0.0
        self._x = torch.zeros(inputs, **where)
        self._y = torch.zeros(outputs, **where)
        self._xx = torch.zeros(inputs, inputs, **where)
        self._yx = torch.zeros(outputs, inputs, **where)
        self._yy = 0.0

    def add(self, x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor | None = None) -> None:
        """Add tokens: `x` is (tokens, inputs), `y` (tokens, outputs), `weight` (tokens,), fp32."""
        x = x.to(self._x.device, torch.float32)
        weight = weight.to(x.device)
        weighted = x * weight[:, None]
        self.weight += float(weight.sum(dtype=torch.float64))
        self._x += weighted.sum(0)
        for block in self._blocks():  # the rest is the same once more
            self._xx[block, block.start :] += weighted[:, block].T @ x[:, block.start :]
        if y is not None:
            y = y.to(x.device, torch.float32)
            self._y += weight @ y
            self._yx += y.T @ weighted
            self._yy += float((weight @ y.square()).sum(dtype=torch.float64))

    def _blocks(self) -> Iterator[slice]:
        size = max(256, -(-len(self._x) // 8))
        return (slice(start, start + size) for start in range(0, len(self._x), size))

    def _mirror(self) -> None:
        """Copy the blocks above the diagonal to below it."""
        for block in self._blocks():
            self._xx[block.stop :, block] = self._xx[block, block.stop :].T

    @property
    def finite(self) -> bool:
        """Whether every sum is a number."""
        # a product of x and y is no larger than the larger of their squares
        return bool((self._xx.sum() + self._yy).isfinite())

    @property
    def mean(self) -> torch.Tensor:
        """Mean of `x` over tokens, (inputs,), fp64."""
        return self._x / self.weight

    def gram(self, *, centred: bool) -> torch.Tensor:
        """Return the mean of `x x^T`, about the mean of `x` if `centred`, (inputs, inputs)."""
        self._mirror()
        gram = self._xx / self.weight
        if centred:
            gram.addr_(self.mean, self.mean, alpha=-1)
        return gram

    def take_gram(self, *, centred: bool) -> torch.Tensor:
        """Return what `gram` does, in the place of the sums, which are gone then."""
        self._mirror()
        gram, self._xx = self._xx.div_(self.weight), self._xx.new_empty(0)
        return gram.addr_(self.mean, self.mean, alpha=-1) if centred else gram

    def fit(
        self, prior: torch.Tensor, *, ridge: float, bias: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return `W` and `b` that minimise `|W x + b - y|^2 + ridge * |W - prior|^2`.

        Without correlations between the inputs this gives back the prior, not zero.

        Args:
            prior: (outputs, inputs).
            ridge: As a share of the mean diagonal of the Gram matrix.
            bias: Fit `b` as well, free of charge; else it is None.

        Raises:
            RuntimeError: The Gram matrix is not positive definite, in spite of the ridge.
        """
        gram, target = self.gram(centred=bias), self._yx / self.weight
        if bias:
            target.addr_(self._y / self.weight, self.mean, alpha=-1)
        strength = ridge_strength(gram, ridge)
        gram.diagonal().add_(strength)
        target.add_(prior.to(target), alpha=strength)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise RuntimeError(
                f"the {len(gram)} neurons kept are too alike to refit with ridge={ridge:g}; raise "
                "the ridge, or give more calibration texts"
            )
        weight = torch.cholesky_solve(target.T, factor).T
        return weight, self._y / self.weight - weight @ self.mean if bias else None

    def error(self, weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        """Return the mean squared error of `W x + b` over the variance of `y`."""
        self._mirror()
        weight = weight.to(self._x)
        b = torch.zeros_like(self._y) if bias is None else bias.to(self._y)
        square = (weight @ self._xx * weight).sum() - 2 * (weight * self._yx).sum() + self._yy
        square += 2 * b @ (weight @ self._x - self._y) + self.weight * b @ b
        variance = self._yy - float(self._y @ self._y) / self.weight
        return max(float(square), 0.0) / variance if variance > 0 else float(square > 0)
