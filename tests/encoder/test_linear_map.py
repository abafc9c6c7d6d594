"""Closed-form maps find what was planted, and do nothing where nothing is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from examples import tiny_encoder
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import nn

from effir_integrations.encoder.linear_map import procrustes, ridge, with_map


def rows(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    """Return unit vectors of random directions."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    return nn.functional.normalize(drawn, dim=-1)


def rotation(wide: int, narrow: int) -> torch.Tensor:
    """Return (wide, narrow) orthonormal columns."""
    return torch.linalg.qr(rows(wide, narrow, seed=9)).Q


def test_it_is_the_ridge_that_texts_it_was_not_fitted_to_like_best() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(200, 6, generator=generator, dtype=torch.float64) + 3
    wanted = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    vectors = states @ wanted + 0.5
    found = ridge(states, vectors)
    assert found.bias is not None and found.cosine > 0.9999
    assert (states @ found.weight + found.bias - vectors).abs().max() < 0.01 * vectors.abs().max()


@pytest.mark.parametrize(("hidden", "dimension"), [(8, 8), (8, 12), (12, 8)])
def test_procrustes_finds_the_rotation_that_was_planted(hidden: int, dimension: int) -> None:
    planted = rotation(max(hidden, dimension), min(hidden, dimension))
    planted = planted if hidden > dimension else planted.T
    states = rows(100, min(hidden, dimension))
    if hidden > dimension:  # what lies outside the columns is lost: let nothing lie there
        states = states @ planted.T
    assert (procrustes(states, states @ planted) - planted).abs().max() < 1e-12


def test_a_ridge_without_bias_finds_any_map() -> None:
    planted, states = torch.randn(8, 12, dtype=torch.float64), rows(200, 8)
    found = ridge(states, states @ planted, bias=False)
    assert found.bias is None and found.cosine > 0.9999999
    assert (found.weight - planted).abs().max() < 0.001 * planted.abs().max()


def test_few_texts_leave_alone_what_they_do_not_speak_of() -> None:
    states = torch.eye(6, dtype=torch.float64)[[0, 1] * 10]
    turned = torch.eye(6, dtype=torch.float64)[[1, 0] * 10]
    weight = ridge(states, turned, bias=False).weight
    assert torch.equal(weight[2:], torch.eye(6, dtype=torch.float64)[2:])
    assert (weight[:2] @ torch.eye(6, dtype=torch.float64)).argmax(1).tolist() == [1, 0]


def test_the_map_stands_before_the_last_normalisation(tmp_path: Path) -> None:
    plain = tiny_encoder("bert", tmp_path)
    plain.prompts = {"query": "w1 ", "document": ""}
    weight, texts = rows(32, 12), ["w1 w2", "w3 w4 w5"]
    made = with_map(plain, weight)
    assert [type(x) for x in made][-2:] == [Dense, Normalize] and len(made) == len(plain) + 1
    assert made.prompts == plain.prompts and made[-2].get_config_dict()["bias"] is False
    wanted = plain.encode_query(texts) @ weight.float().numpy()
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(made.encode_query(texts), wanted, atol=1e-6)
