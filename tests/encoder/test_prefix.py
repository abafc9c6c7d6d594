"""What texts share is found in tokens, run once, and reused where its keys are still right."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny import SIZES, tiny_model
from transformers import LlamaConfig, LlamaModel, Qwen3Config

from effir_integrations.encoder.prefix import (
    Prefix,
    depends_on_length,
    forget_lengths,
    reuse_bound,
    shared_tokens,
    steady_length,
)
from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.surgery import drop_attention


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


@pytest.mark.parametrize(
    ("kinds", "bound"),
    [
        (["full_attention"] * 4, 8),
        (["full_attention", "sliding_attention"] * 2, 8),
        (["full_attention", "chunked_attention"] * 2, 0),
        (["linear_attention"] * 4, 0),
    ],
    ids=["full", "sliding", "chunked", "linear"],
)
def test_kinds_of_attention_that_keep_no_keys_of_all_tokens_bound_it_at_none(kinds, bound):
    config = Qwen3Config(layer_types=kinds, **SIZES, sliding_window=8, use_sliding_window=True)
    assert reuse_bound(config) == bound


def rope(kind, **options):
    return {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **options}


ORIGINAL = {"original_max_position_embeddings": 16}
FACTORS = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [2.0, 3.0, 4.0, 5.0]}
ROPES = [
    ("llama", None, sys.maxsize),
    ("llama", rope("linear"), sys.maxsize),
    ("llama", rope("yarn", **ORIGINAL), sys.maxsize),
    ("llama", rope("dynamic"), 128),
    ("llama", rope("longrope", **FACTORS, **ORIGINAL), 16),
    ("gemma3_text", {"full_attention": rope("linear")}, sys.maxsize),
    (
        "gemma3_text",
        {"full_attention": rope("dynamic"), "sliding_attention": rope("dynamic", **ORIGINAL)},
        16,
    ),
    ("bert", None, sys.maxsize),
]


@pytest.mark.parametrize(
    ("family", "rope_parameters", "steady"),
    ROPES,
    ids=["none", "linear", "yarn", "dynamic", "longrope", "one-kind", "two-kinds", "no-rope"],
)
def test_frequencies_are_steady_up_to_the_shortest_length_that_changes_them(
    family, rope_parameters, steady
):
    options = {} if rope_parameters is None else {"rope_parameters": rope_parameters}
    model = tiny_model(family, **options)
    assert steady_length(model.config) == steady
    assert depends_on_length(model) == (steady < sys.maxsize)


def test_a_kind_of_attention_without_rotary_embeddings_has_no_length():
    config = tiny_model("modernbert").config
    config.rope_parameters = {"full_attention": rope("dynamic"), "sliding_attention": {}}
    assert steady_length(config) == 128


def test_a_module_that_is_no_transformer_does_not_depend_on_lengths():
    assert not depends_on_length(torch.nn.Linear(2, 2))
    assert not depends_on_length(None)


def test_keys_are_reused_up_to_the_window_and_the_steady_length():
    sliding = {"sliding_window": 64, "rope_parameters": rope("dynamic", **ORIGINAL)}
    assert reuse_bound(tiny_model("mistral", **sliding).config) == 16
    sliding["sliding_window"] = 8
    assert reuse_bound(tiny_model("mistral", **sliding).config) == 8


def test_a_model_that_ran_a_long_text_has_the_frequencies_of_short_ones_back():
    model = tiny_model("llama", rope_parameters=rope("dynamic"), max_position_embeddings=16)
    before = model.rotary_emb.inv_freq.clone()
    seen = watch(model)
    with torch.no_grad():
        model(input_ids=torch.ones(1, 30, dtype=torch.long))
    assert not torch.equal(model.rotary_emb.inv_freq, before)
    forget_lengths(model)
    assert torch.equal(model.rotary_emb.inv_freq, before)
    assert seen[-1]["input_ids"].shape == (1, 1)


def watch(model):
    """Return a list that receives the arguments of every run."""
    seen = []

    def record(module, arguments, keywords):
        seen.append(keywords)

    model.register_forward_pre_hook(record, with_kwargs=True)
    return seen


TOKENS = torch.randint(4, 64, (5,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("dropped", [[], [3]], ids=["whole", "dropped"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_texts_behind_a_prefix_get_the_states_of_the_whole_text(family, dropped):
    model = tiny_model(family, use_cache=False).double()
    if dropped:
        drop_attention(model, ARCHITECTURES[family], dropped)
    own = torch.randint(4, 64, (3, 4), generator=torch.Generator().manual_seed(2))
    cpu = torch.device("cpu")
    with torch.inference_mode():
        whole = torch.cat([torch.tensor([TOKENS]).expand(3, -1), own], dim=1)
        expected = model(input_ids=whole, use_cache=False).last_hidden_state[:, len(TOKENS) :]
        alone = model(input_ids=own, use_cache=False).last_hidden_state
        prefix = Prefix(model, TOKENS, cpu)
        assert prefix.length == len(TOKENS)
        for rows in (3, 1, 2):  # each batch begins where the prefix ended
            ids = own[:rows]
            found = model(input_ids=ids, **prefix.inputs(rows, 4, cpu)).last_hidden_state
            # rotary frequencies and softmax are fp32 in an fp64 model too
            torch.testing.assert_close(found, expected[:rows], rtol=0, atol=1e-5)
    assert (alone - expected).abs().max() > 1e-2, "the prefix had no effect"


def test_what_a_prefix_gives_a_model_lies_where_the_model_does():
    with torch.device("meta"):
        model = LlamaModel(LlamaConfig(**SIZES))
    seen, meta = watch(model), torch.device("meta")
    with torch.inference_mode():
        given = Prefix(model, TOKENS, meta).inputs(2, 3, meta)
    forget_lengths(model)
    assert given["position_ids"].device == meta
    assert [x["input_ids"].device for x in seen] == [meta, meta]
