"""What texts share is found in tokens, and each keeps one of its own."""

from __future__ import annotations

import sys

import pytest
from tiny import FAMILIES, tiny_model

from effir_integrations.architectures import ARCHITECTURES
from effir_integrations.encoding.prefix import reusable_tokens, shared_tokens
from effir_integrations.surgery import drop_attention


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


@pytest.mark.parametrize("family", FAMILIES)
def test_only_causal_models_reuse_and_windows_bound_it(family):
    found = reusable_tokens(tiny_model(family))
    if not ARCHITECTURES[family].causal:
        assert found == 0
    elif family in ("mistral", "gemma2", "gemma3_text"):
        assert found == 4096
    else:
        assert found == sys.maxsize


def test_a_window_that_is_switched_off_bounds_nothing():
    assert reusable_tokens(tiny_model("qwen2", sliding_window=8)) == sys.maxsize
    assert reusable_tokens(tiny_model("mistral", sliding_window=8)) == 8
    assert reusable_tokens(tiny_model("mistral", sliding_window=None)) == sys.maxsize


def test_two_way_attention_and_a_first_layer_without_attention_reuse_nothing():
    assert reusable_tokens(tiny_model("gemma3_text", use_bidirectional_attention=True)) == 0
    model = tiny_model("llama")
    drop_attention(model, ARCHITECTURES["llama"], [0])
    assert reusable_tokens(model) == 0
