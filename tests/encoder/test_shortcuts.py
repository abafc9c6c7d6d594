"""What the fast path leaves out was tried on the model, whatever its config or class is called."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from test_inference import TOLERANCE, random_texts, stock, watch
from tiny import FAMILIES, save_bare, tiny_model

from effir_integrations.encoder import loading
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.encoder.shapes import Shapes
from effir_integrations.encoder.shortcuts import Shortcuts, sees_left_only
from effir_integrations.model.families import ARCHITECTURES, is_causal
from effir_integrations.model.surgery import drop_attention

DECODERS = [family for family in FAMILIES if ARCHITECTURES[family].causal]
BY_CONFIG = [family for family in DECODERS if family != "gpt_neox"]
PROMPT = "w1 w2 w3 w4 w5 w6 "
MIXED = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0, 1.2, 1.4, 1.6],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize("family", FAMILIES)
def test_causality_is_seen_and_not_read(family):
    model = tiny_model(family)
    assert sees_left_only(model) == ARCHITECTURES[family].causal == is_causal(model.config)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_made_two_way_by_its_config_gives_the_vectors_of_the_stock_class(
    family, tmp_path
):
    encoder = load(save_bare(family, tmp_path, is_causal=False), device="cpu", pooling="lasttoken")
    texts = random_texts(12)
    expected = stock(encoder, texts, prompt=PROMPT)
    found = encoder.encode(texts, prompt=PROMPT)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
def test_a_bare_decoder_that_is_two_way_gets_mean_pooling(family, tmp_path):
    model = tiny_model(family, is_causal=False)
    encoder = load(save_bare(family, tmp_path, is_causal=False), device="cpu")
    two_way = not sees_left_only(model)
    assert two_way == (not is_causal(model.config))
    assert encoder[1].pooling_mode == ("mean" if two_way else "lasttoken")


def test_gemma_3_made_two_way_by_its_own_flag_gets_mean_pooling(tmp_path):
    save_bare("gemma3_text", tmp_path, use_bidirectional_attention=True)
    encoder = load(tmp_path, device="cpu")
    assert encoder[1].pooling_mode == "mean"
    assert encoder.find_shortcuts() == Shortcuts(batches=True, padded=True)


@pytest.mark.parametrize("pooling", ["mean", "lasttoken", "max"])
def test_where_padding_shows_each_batch_has_one_length(pooling, tmp_path):
    # Transformers makes padded batches of this one causal, and others two-way
    save_bare("gemma", tmp_path, use_bidirectional_attention=True)
    encoder = load(tmp_path, device="cpu", pooling=pooling)
    assert encoder.find_shortcuts() == Shortcuts(batches=True)
    texts = random_texts(30)
    expected = stock(encoder, texts)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=TOLERANCE, rtol=0)


def test_a_config_that_changes_after_loading_is_noticed(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    assert encoder.find_shortcuts().unmasked
    transformer_model(encoder).config.is_causal = False
    assert not encoder.find_shortcuts().unmasked


@pytest.mark.parametrize("family", FAMILIES)
def test_only_causal_models_reuse_and_windows_bound_it(family, tmp_path):
    encoder = load(save_bare(family, tmp_path), device="cpu", pooling="lasttoken")
    found = encoder.find_shortcuts()
    assert found.batches and found.pooled_alone
    assert found.unmasked == ARCHITECTURES[family].causal
    if not found.unmasked:
        assert found.reusable_tokens == 0
    elif family in ("mistral", "gemma2", "gemma3_text"):
        assert found.reusable_tokens == 4096
    else:
        assert found.reusable_tokens == sys.maxsize


@pytest.mark.parametrize("pooling", ["mean", "max", "weightedmean"])
def test_poolings_of_all_tokens_leave_nothing_out(pooling, tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu", pooling=pooling)
    assert encoder.find_shortcuts() == Shortcuts(batches=True, padded=True)


@pytest.mark.parametrize(
    ("dropped", "dtype"),
    [([0], "fp32"), ([2], "fp32"), ([0, 1], "fp32"), ([1, 3], "fp32"), ([0, 2], "fp32")]
    + [([3], "fp32"), ([0], "bf16"), ([1, 3], "bf16")],
)
@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        ("gemma2", ["sliding_attention", "full_attention"] * 2),
        ("gemma3_text", ["full_attention", "sliding_attention"] * 2),
        ("gemma3_text", MIXED),
        ("qwen2", MIXED[::-1]),
        ("qwen3", MIXED),
    ],
)
def test_a_prefix_is_reused_only_where_every_attention_finds_its_keys(
    family, kinds, dropped, dtype, tmp_path
):
    options = {"layer_types": kinds, "sliding_window": 64, "use_sliding_window": True}
    save_bare(family, tmp_path, **options)
    encoder = load(tmp_path, device="cpu", pooling="lasttoken", dtype=dtype)
    assert encoder.find_shortcuts().reusable_tokens == 64
    drop_attention(transformer_model(encoder), ARCHITECTURES[family], dropped)
    texts = random_texts(8)
    expected, found = stock(encoder, texts, prompt=PROMPT), encoder.encode(texts, prompt=PROMPT)
    if dtype == "fp32":
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    else:  # bf16 rounds each step by up to 0.4 %
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        assert ((found * expected).sum(1) / lengths).min() > 0.999


@pytest.mark.parametrize("pooling", ["lasttoken", "mean"])
@pytest.mark.parametrize(
    "options",
    [
        {"rope_parameters": LONGROPE},
        {"rope_parameters": DYNAMIC, "max_position_embeddings": 16},
    ],
    ids=["longrope", "dynamic"],
)
def test_frequencies_that_depend_on_the_length_see_each_text_alone(options, pooling, tmp_path):
    save_bare("llama", tmp_path, **options)
    encoder = load(tmp_path, device="cpu", pooling=pooling)
    encoder.max_seq_length = 32
    texts = random_texts(30)
    tokens = [len(ids) for ids in encoder.tokenizer(texts).input_ids]
    assert min(tokens) < 16 < max(tokens)
    expected = np.stack([fresh(encoder, text) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=TOLERANCE, rtol=0)
    # and the prefix, which a short run would make with other frequencies
    prompted = encoder.encode(texts, prompt=PROMPT)
    expected = np.stack([fresh(encoder, PROMPT + text) for text in texts])
    np.testing.assert_allclose(prompted, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("limit", "longest", "steady"), [(32, 32, 16), (20, 32, 24)])
def test_texts_are_not_padded_to_lengths_that_change_the_frequencies(
    limit, longest, steady, tmp_path
):
    dynamic = {"rope_parameters": DYNAMIC, "max_position_embeddings": steady}
    save_bare("llama", tmp_path, **dynamic)
    encoder = load(tmp_path, device="cpu")
    encoder.max_seq_length = limit
    message = f"up to {limit} tokens to {longest}, .* change beyond {steady}; load it without"
    with pytest.raises(ValueError, match=message):
        loading._compile(encoder)
    assert encoder.shapes is None


def test_fixed_shapes_within_the_steady_lengths_are_let_pass(tmp_path):
    save_bare("llama", tmp_path, rope_parameters=DYNAMIC, max_position_embeddings=64)
    config = transformer_model(load(tmp_path, device="cpu")).config
    shapes = Shapes(batch_tokens=128)
    loading._check_padding(config, shapes, 64)
    with pytest.raises(ValueError, match="to 128, .* give max_length=64 at most, or load it"):
        loading._check_padding(config, shapes, 65)


def fresh(encoder, text: str) -> np.ndarray:
    """Return the stock vector of a text, of a model that has seen no longer one."""
    with torch.inference_mode():
        transformer_model(encoder)(input_ids=torch.ones(1, 1, dtype=torch.long))
    return stock(encoder, [text])[0]


def test_what_was_tried_is_kept(tmp_path):
    encoder = load(save_bare("qwen3", tmp_path), device="cpu")
    seen = watch(encoder)
    encoder.encode(["w1 w2", "w3"])
    assert len(seen) == 1


def test_a_way_that_gives_other_vectors_is_not_taken(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")

    def stray(module, arguments, keywords, output):
        if keywords.get("attention_mask") is None:  # as a model would that needs its mask
            output.last_hidden_state = output.last_hidden_state.flip(-1)
        return output

    transformer_model(encoder).register_forward_hook(stray, with_kwargs=True)
    encoder._shortcuts = None
    assert encoder.find_shortcuts() == Shortcuts(batches=True, padded=True, pooled_alone=True)


def test_a_model_whose_plain_batches_differ_runs_the_stock_way(tmp_path):
    encoder = load(save_bare("bert", tmp_path), device="cpu")

    def stray(module, arguments, keywords, output):
        if len(keywords["input_ids"]) > 1:
            output.last_hidden_state = output.last_hidden_state.flip(-1)
        return output

    transformer_model(encoder).register_forward_hook(stray, with_kwargs=True)
    encoder._shortcuts = None
    assert encoder.find_shortcuts() == Shortcuts()
    assert encoder.encode("w1 w2").shape == (32,)
