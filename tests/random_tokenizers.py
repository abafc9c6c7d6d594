"""Tiny tokenizers of several kinds, with and without tokens around a text."""

from __future__ import annotations

import string

from tiny import WORDS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
END = {"bos": "<s>", "eos": "</s>"}
TOKENIZERS = ("words", "bytes", "pieces")
VOCABULARY = 320


def _words() -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def _bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIALS, *alphabet, *(f"w{x}" for x in range(10)), *(f"Ġw{x}" for x in range(10))]
    merges = [("w", f"{x}") for x in range(10)] + [("Ġ", f"w{x}") for x in range(10)]
    made = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def _pieces() -> Tokenizer:
    letters = string.ascii_lowercase + string.digits
    tokens = [*SPECIALS, *letters, *(f"##{x}" for x in letters), *WORDS[:40]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


_MAKERS = {"words": _words, "bytes": _bytes, "pieces": _pieces}


def tokenizer_of(kind: str, ends: tuple[str, ...], *, pad: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer.

    Args:
        kind: One of `TOKENIZERS`.
        ends: Of `bos` in front of every text, `eos` behind it.
        pad: `own`, or `eos` for the token at the end.
    """
    backend = _MAKERS[kind]()
    if ends:
        single = " ".join(
            [*(["<s>"] if "bos" in ends else []), "$A", *(["</s>"] if "eos" in ends else [])]
        )
        specials = [(END[x], SPECIALS.index(END[x])) for x in ends]
        backend.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B", special_tokens=specials
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>" if pad == "own" else "</s>",
    )
