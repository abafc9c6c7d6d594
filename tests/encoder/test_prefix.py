"""What texts share is found in tokens, and each keeps one of its own."""

from __future__ import annotations

import sys

import pytest
from tiny import tiny_model

from effir_integrations.encoder.prefix import reuse_bound, shared_tokens


@pytest.mark.parametrize(
    ("ids", "shared"),
    [
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1, 2], [1, 2, 3, 4]], 1),
        ([[1, 2, 3], [2, 2, 3]], 0),
        ([[1], [1, 2]], 0),
        ([[1, 5, 9], [1, 5, 2], [1, 4, 9], [1, 5, 9, 9]], 1),
        ([[7, 8, 9]], 2),
    ],
)
def test_the_shared_beginning_leaves_every_text_a_token(ids, shared):
    assert shared_tokens(ids) == shared


def test_a_window_that_is_switched_off_bounds_nothing():
    assert reuse_bound(tiny_model("qwen2", sliding_window=8).config) == sys.maxsize
    assert reuse_bound(tiny_model("mistral", sliding_window=8).config) == 8
    assert reuse_bound(tiny_model("mistral", sliding_window=None).config) == sys.maxsize
