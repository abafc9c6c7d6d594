"""Tokenizers are recognised by what they do, and what llama.cpp does not do is refused."""

from __future__ import annotations

import json

import pytest
from tiny_gguf import byte_level, sentence_piece, unigram, word_piece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from effir_integrations import mini_path
from effir_integrations.conversion.gguf_vocabulary import (
    BYTE,
    CONTROL,
    UNKNOWN,
    UNUSED,
    vocabulary_of,
)


def changed(tokenizer, **parts):
    """Return a tokenizer with other parts in its tokenizer.json."""
    content = {**json.loads(tokenizer.backend_tokenizer.to_str()), **parts}
    names = {"eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), **names
    )


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe", "smaug-bpe"])
def test_a_byte_level_tokenizer_is_known_by_how_it_cuts_texts(pre):
    tokenizer = byte_level(pre)
    found = vocabulary_of(tokenizer, len(tokenizer) + 3)

    assert (found.model, found.pre) == ("gpt2", pre)
    assert found.types[0] == CONTROL and list(found.types[-3:]) == [UNUSED] * 3
    assert found.tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert (found.adds_bos, found.adds_eos) == (False, True)
    assert bool(found.notes) is (pre == "qwen2")  # which brings texts into NFC


def test_what_is_put_around_texts_is_what_the_file_adds():
    tokenizer = byte_level("gpt-2", before="<s>", after="<pad>")
    found = vocabulary_of(tokenizer, len(tokenizer))

    assert found.adds_bos and found.adds_eos
    assert (found.special["bos"], found.special["eos"]) == (1, 0)


def test_bytes_to_fall_back_on_make_it_a_sentence_piece():
    tokenizer = sentence_piece()
    found = vocabulary_of(tokenizer, len(tokenizer))

    assert found.model == "llama" and found.space_before is True
    assert found.types.count(BYTE) == 256
    place = found.tokens.index
    # what is joined earlier has the higher score
    assert found.scores[place("▁t")] > found.scores[place("▁the")]
    assert vocabulary_of(sentence_piece(space_before=False), 400).space_before is False


def test_a_word_piece_marks_starts_of_words_instead_of_what_follows():
    tokenizer = word_piece()
    found = vocabulary_of(tokenizer, len(tokenizer))

    assert found.model == "bert"
    assert {"▁the", "ing", "[CLS]"} <= set(found.tokens)
    assert (found.special["bos"], found.special["sep"], found.special["unk"]) == (2, 3, 1)


def test_a_unigram_keeps_its_scores_and_its_normaliser():
    tokenizer = unigram()
    found = vocabulary_of(tokenizer, len(tokenizer) + 1)

    assert (found.model, found.space_before, len(found.charsmap) > 1000) == ("t5", True, True)
    assert len(found.scores) == len(found.tokens) == len(tokenizer) + 1
    assert found.special["unk"] == 3 and found.types[3] == UNKNOWN
    assert found.adds_bos and found.adds_eos


def test_the_tokenizer_of_effir_mini_is_refused_by_its_normalizer():
    tokenizer = AutoTokenizer.from_pretrained(mini_path())
    with pytest.raises(ValueError, match="normalises texts by .*NFKC.*--to onnx, or --to gguf-ids"):
        vocabulary_of(tokenizer, 16384)


def bpe(part):
    return json.loads(byte_level().backend_tokenizer.to_str())[part]


def merges_without_one():
    tokenizer = sentence_piece()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return changed(tokenizer, model={**model, "merges": model["merges"][:-1]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: changed(
                byte_level(),
                pre_tokenizer={**bpe("pre_tokenizer"), "add_prefix_space": True},
            ),
            "cuts texts by .*add_prefix_space",
        ),
        (lambda: changed(byte_level(), normalizer={"type": "Lowercase"}), "Lowercase"),
        (
            lambda: changed(byte_level(), model={**bpe("model"), "ignore_merges": True}),
            "it cuts texts by",
        ),
        (lambda: word_piece(lowercase=False), "keeps upper case"),
        (lambda: word_piece(strip_accents=False), "keeps upper case or accents"),
        (merges_without_one, "ways that llama.cpp would"),
    ],
    ids=["prefix-space", "lower-case", "whole-words", "cased", "accents", "merges"],
)
def test_what_the_engine_does_otherwise_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        vocabulary_of(make(), 400)


def test_two_tokens_after_a_text_are_refused():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <pad>", special_tokens=[("</s>", 2), ("<pad>", 0)]
    )
    with pytest.raises(ValueError, match="0 tokens before and 2 after"):
        vocabulary_of(tokenizer, 400)


def test_other_algorithms_and_missing_rows_are_refused():
    unigram = Tokenizer(models.Unigram([("a", -1.0), ("<unk>", -2.0)], unk_id=1))
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(ValueError, match="normalises texts by .*NFKC"):
        vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=unigram), 10)
    with pytest.raises(ValueError, match="and the model 10 rows"):
        vocabulary_of(byte_level(), 10)
