"""Tokenizers of every kind that can be trimmed, trained on words of many scripts."""

from __future__ import annotations

import json
import random
from functools import cache

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
SCRIPTS = {
    "latin": "abcdefghijklmnopqrstuvwxyzäöüéß",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщ",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "cjk": "大小中文字模型向量検索語言東京",
    "digits": "0123456789",
}
KINDS = ("bytes", "fallback", "pieces", "unigram")


def words(script: str, seed: int = 0, count: int = 60) -> list[str]:
    """Return random words of a script; the first ones are the most common."""
    draw = random.Random(f"{script} {seed}")
    letters = SCRIPTS[script]
    return ["".join(draw.choices(letters, k=draw.randint(2, 7))) for _ in range(count)]


def texts(count: int, seed: int = 0, scripts: tuple[str, ...] = tuple(SCRIPTS)) -> list[str]:
    """Return texts of words of some scripts, drawn by Zipf's law."""
    draw = random.Random(seed)
    known = [word for script in scripts for word in words(script)]
    draw.shuffle(known)
    weights = [1 / rank for rank in range(1, len(known) + 1)]
    return [" ".join(draw.choices(known, weights, k=draw.randint(3, 12))) for _ in range(count)]


def _bytes(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    return made


def _fallback(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=[*SPECIALS, *BYTES], show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    content = json.loads(made.to_str())
    content["added_tokens"] = [x for x in content["added_tokens"] if x["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(content))


def _pieces(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=SPECIALS, show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    return made


def _unigram(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    return made


_MAKERS = {"bytes": _bytes, "fallback": _fallback, "pieces": _pieces, "unigram": _unigram}


@cache
def _serialised(kind: str) -> str:
    return str(_MAKERS[kind](texts(400)).to_str())


def trained(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one of `KINDS` that puts <s> in front of texts and </s> behind."""
    backend = Tokenizer.from_str(_serialised(kind))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )
