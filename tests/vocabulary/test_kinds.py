"""Texts whose tokens stay are split as before, and others fall back on smaller tokens."""

from __future__ import annotations

import json
import random

import pytest
from random_texts import cleaned, unicode_text
from tokenizers import Tokenizer, models
from trained import KINDS, texts, trained
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from effir_integrations import mini_path
from effir_integrations.vocabulary.counts import ids_of
from effir_integrations.vocabulary.kinds import kind_of
from effir_integrations.vocabulary.tokenizer_file import Vocabulary


def random_half(vocabulary, seed):
    """Return all that must stay and about half of the other ids, with their parts."""
    draw = random.Random(seed)
    chosen = vocabulary.always() | {x for x in sorted(vocabulary.tokens) if draw.random() < 0.5}
    return {part for token in chosen for part in vocabulary.with_parts(token)}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_whose_tokens_stay_are_split_as_before(kind):
    tokenizer = trained(kind)
    vocabulary = Vocabulary(tokenizer, "tiny")
    some = [word for text in texts(300, seed=1) for word in text.split()] + texts(100, seed=2)
    before, whole = ids_of(tokenizer, some), 0
    for seed in range(4):
        kept = random_half(vocabulary, seed)
        new_ids = {old: new for new, old in enumerate(sorted(kept))}
        for old, new in zip(before, ids_of(vocabulary.cut(kept), some), strict=True):
            if kept >= set(old):
                whole += 1
                assert new == [new_ids[token] for token in old]
    assert whole > 500


@pytest.mark.parametrize("kind", KINDS)
def test_what_lost_a_token_is_spelled_by_smaller_ones(kind):
    tokenizer = trained(kind)
    vocabulary = Vocabulary(tokenizer, "tiny")
    least = {part for x in vocabulary.always() for part in vocabulary.with_parts(x)}
    trimmed = vocabulary.cut(least)
    some = texts(100, seed=3)
    assert len(trimmed) < len(tokenizer) - 100
    before, after = ids_of(tokenizer, some), ids_of(trimmed, some)
    assert sum(map(len, after)) > sum(map(len, before))
    assert not any(trimmed.unk_token_id in ids for ids in after)
    read = [tokenizer.decode(ids, skip_special_tokens=True) for ids in before]
    assert [trimmed.decode(ids, skip_special_tokens=True) for ids in after] == read


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_bytes_spell_any_text_of_any_script(kind, count):
    vocabulary = Vocabulary(trained(kind), "tiny")
    trimmed = vocabulary.cut(random_half(vocabulary, seed=0))
    draw = random.Random(0)
    some = [cleaned(unicode_text(draw)).replace("▁", "") for _ in range(count)]
    found = ids_of(trimmed, some)
    assert not any(trimmed.unk_token_id in ids for ids in found)
    assert trimmed.batch_decode(found, skip_special_tokens=True) == some


def test_a_unigram_keeps_what_an_unknown_character_costs():
    vocabulary = Vocabulary(trained("unigram"), "tiny")
    lowest = min(score for _, score in vocabulary.content["model"]["vocab"])
    trimmed = vocabulary.cut(vocabulary.always())
    left = json.loads(trimmed.backend_tokenizer.to_str())["model"]["vocab"]
    assert min(score for _, score in left) == lowest


def test_a_token_that_single_pieces_cannot_spell_stays():
    tokens = ["<unk>", "a", "##a", "##b", "ab", "bab", "aa"]
    model = {
        "type": "WordPiece",
        "vocab": {token: place for place, token in enumerate(tokens)},
        "unk_token": "<unk>",
        "continuing_subword_prefix": "##",
    }
    assert kind_of(model, "m").needed() == {"<unk>", "a", "##a", "##b", "bab"}


def test_merges_whose_product_went_go_and_those_of_kept_tokens_stay():
    model = {
        "type": "BPE",
        "vocab": {token: place for place, token in enumerate(["a", "b", "c", "ab", "bc", "abc"])},
        "merges": [["a", "b"], ["b", "c"], ["ab", "c"]],
    }
    kind = kind_of(model, "m")
    assert kind.parts("abc") == {"a", "b", "c", "ab", "abc"}
    kept = {token: place for place, token in enumerate(["a", "b", "c", "ab", "abc"])}
    assert kind.cut(kept)["merges"] == [["a", "b"], ["ab", "c"]]


def test_the_parts_of_effir_minis_tokens_are_what_its_merges_make():
    from transformers import AutoTokenizer

    vocabulary = Vocabulary(AutoTokenizer.from_pretrained(mini_path()), "effir-mini")
    kind, added = vocabulary.kind, {x["content"] for x in vocabulary.content["added_tokens"]}
    assert [x for x in kind.tokens[::16] if x not in kind.parts(x) | added] == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"), "is WordLevel"),
        (models.BPE({"a": 0, "b</w>": 1}, [], end_of_word_suffix="</w>"), "end_of_word_suffix"),
    ],
)
def test_other_kinds_are_refused_with_those_that_can_be_trimmed(model, said):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    with pytest.raises(ValueError, match=f"{said}.*BPE, WordPiece, Unigram can be"):
        Vocabulary(tokenizer, "tiny")


def test_a_tokenizer_without_a_file_to_trim_is_refused():
    with pytest.raises(ValueError, match=r"is a ByT5Tokenizer without a tokenizer.json.*convert"):
        Vocabulary(ByT5Tokenizer(), "tiny")
