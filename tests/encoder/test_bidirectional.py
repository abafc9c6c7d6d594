"""Decoders whose tokens see both ways: as stock Transformers computes it, wherever it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny import FAMILIES, in_full, save_bare
from transformers import AutoModel

from effir_integrations import export, load
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.shortcuts import sees_left_only
from effir_integrations.model.families import ARCHITECTURES, is_causal
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

DECODERS = [family for family in FAMILIES if ARCHITECTURES[family].causal]
ENCODERS = [family for family in FAMILIES if not ARCHITECTURES[family].causal]
PREFIX = "w1 w2 w3 w4 w5 w6 "
TEXTS = [PREFIX + rest for rest in ("w7", "w8 w9 w10", "w11", "w12 w13 w14 w15 w16")]
"""All begin alike, with more tokens than pay for a cache, and are of several lengths."""


def by_hand(folder: Path, encoder: SentenceTransformer) -> torch.Tensor:
    """Return the mean of the stock model's states, one text at a time, with an explicit mask."""
    stock = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    stock.config.is_causal = False
    vectors = []
    for text in TEXTS:
        features = encoder.tokenizer([text], truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = stock(
                input_ids=features["input_ids"], attention_mask=features["attention_mask"]
            ).last_hidden_state[0]
        vectors.append(torch.nn.functional.normalize(states.mean(0), dim=0))
    return torch.stack(vectors)


def near(first: torch.Tensor, second: torch.Tensor) -> bool:
    return bool((first - second).abs().max() < 2e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_vectors_are_those_of_the_stock_model_with_that_config(family: str, tmp_path: Path) -> None:
    folder = save_bare(family, tmp_path / family)
    encoder = load(folder, bidirectional=True)
    assert encoder[1].pooling_mode == "mean"
    assert not sees_left_only(transformer_model(encoder)) and not is_causal(encoder[0].model.config)
    found = encoder.encode(TEXTS, convert_to_tensor=True)
    assert near(found, by_hand(folder, encoder))
    # alone, with nothing to pad and so without a mask
    assert near(encoder.encode(TEXTS[:1], convert_to_tensor=True), found[:1])
    causal = load(folder, pooling="mean").encode(TEXTS, convert_to_tensor=True)
    assert (causal - found).abs().max() > 1e-3


@in_full(*DECODERS)
def test_it_is_kept_where_it_is_saved_pruned_and_loaded_anywhere(
    family: str, tmp_path: Path
) -> None:
    encoder = load(save_bare(family, tmp_path / family), bidirectional=True)
    expected = encoder.encode(TEXTS, convert_to_tensor=True)
    encoder.save(str(tmp_path / "saved"))
    for again in (
        load(tmp_path / "saved"),
        load(tmp_path / "saved", bidirectional=True),
        SentenceTransformer(str(tmp_path / "saved"), device="cpu"),
    ):
        assert near(again.encode(TEXTS, convert_to_tensor=True), expected)

    transformer_model(encoder).save_pretrained(tmp_path / "bare")
    encoder.tokenizer.save_pretrained(tmp_path / "bare")
    assert near(load(tmp_path / "bare").encode(TEXTS, convert_to_tensor=True), expected)

    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(1,))
    pruned = export(encoder, plan, tmp_path / "pruned")
    reloaded = load(tmp_path / "pruned")
    assert not is_causal(transformer_model(reloaded).config)
    assert not sees_left_only(transformer_model(reloaded))
    given = pruned.encode(TEXTS, convert_to_tensor=True)
    assert near(reloaded.encode(TEXTS, convert_to_tensor=True), given)
    assert (given - expected).abs().max() > 1e-4


@in_full(*DECODERS)
def test_no_prefix_is_reused_where_its_tokens_see_what_follows(family: str, tmp_path: Path) -> None:
    folder = save_bare(family, tmp_path / family)
    encoder = load(folder, bidirectional=True, pooling="lasttoken")
    ways = encoder.find_shortcuts()
    assert not ways.unmasked and not ways.reusable_tokens
    together = encoder.encode(TEXTS, convert_to_tensor=True)
    alone = torch.cat([encoder.encode([text], convert_to_tensor=True) for text in TEXTS])
    assert near(together, alone)


def test_a_mask_that_is_taken_away_later_ends_the_reuse_of_prefixes(tmp_path: Path) -> None:
    encoder = load(save_bare("llama", tmp_path / "llama"))
    assert encoder.find_shortcuts().reusable_tokens
    transformer_model(encoder).config.is_causal = False
    together = encoder.encode(TEXTS, convert_to_tensor=True)
    assert not encoder.find_shortcuts().reusable_tokens
    fresh = load(tmp_path / "llama", bidirectional=True, pooling="lasttoken")
    assert near(together, fresh.encode(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_is_refused(family: str, tmp_path: Path) -> None:
    folder = save_bare(family, tmp_path / family)
    with pytest.raises(ValueError, match="is an encoder, whose tokens see each other already"):
        load(folder, bidirectional=True)


def test_a_retriever_that_was_made_causal_is_refused(tmp_path: Path) -> None:
    load(save_bare("llama", tmp_path / "llama")).save(str(tmp_path / "made"))
    with pytest.raises(ValueError, match="made with attention to the left"):
        load(tmp_path / "made", bidirectional=True)


def test_a_model_that_does_not_heed_the_config_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def stays_causal(self, *arguments, **options):
        self.config.is_causal, kept = True, self.config.is_causal
        try:
            return forward(self, *arguments, **options)
        finally:
            self.config.is_causal = kept

    folder = save_bare("llama", tmp_path / "llama")
    monkeypatch.setattr(LlamaModel, "forward", stays_causal)
    with pytest.raises(ValueError, match="does not read is_causal in the config of llama"):
        load(folder, bidirectional=True)
