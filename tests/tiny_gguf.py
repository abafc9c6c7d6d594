"""Tokenizers of the kinds that llama.cpp knows, and tiny models that use them."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from effir_integrations import export, load
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

SAMPLE = [
    "the plants make sugar from light and water, and the ships float on the sea",
    "How do plants make sugar? 12345 numbers, 678 and 90.",
    "naïve café, straße; don't we'll I'M you're",
]
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
}
"""Multiples of 32, which Q8_0 needs."""
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}


def _cut(regex: str) -> Any:
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _cuts() -> dict[str, Any]:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return {
        "gpt-2": plain,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]),
        "qwen2": _cut(_WORDS + r"\p{N}" + _REST),
        "llama-bpe": _cut(_WORDS + r"\p{N}{1,3}" + _REST),
        "smaug-bpe": _cut(_WORDS + r"\p{N}{1,3}" + _REST),
    }


def _finished(backend: Tokenizer, before: str, after: str, **special: str) -> Any:
    names = [x for x in (before, after) if x]
    backend.post_processor = processors.TemplateProcessing(
        single=" ".join(filter(None, [before, "$A", after])),
        pair="$A $B",
        special_tokens=[(name, backend.token_to_id(name)) for name in names],
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **special)


def byte_level(pre: str = "gpt-2", *, before: str = "", after: str = "</s>") -> Any:
    """Return a byte-level BPE tokenizer that cuts texts as one of llama.cpp's names says."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = _cuts()[pre]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<s>", "</s>", "<|endoftext|>"],  # the last is Qwen2Tokenizer's
        show_progress=False,
    )
    backend.train_from_iterator(SAMPLE, trainer)
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    if pre == "llama-bpe":
        content = json.loads(backend.to_str())
        content["model"]["ignore_merges"] = True
        backend = Tokenizer.from_str(json.dumps(content))
    return _finished(backend, before, after, **_SPECIAL)


def sentence_piece(*, before: str = "<s>", after: str = "</s>", space_before: bool = True) -> Any:
    """Return a BPE tokenizer with bytes to fall back on, as SentencePiece's are converted."""
    tokens = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += sorted(set("".join(SAMPLE).replace(" ", "\u2581")))
    joined = ["\u2581" + word for word in "the plants make sugar water and".split()]
    for word in joined:
        tokens += [word[:end] for end in range(2, len(word) + 1) if word[:end] not in tokens]
    known = {token: number for number, token in enumerate(tokens)}
    merges = [
        (token[:cut], token[cut:])
        for token in tokens[260:]
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    backend = Tokenizer(
        models.BPE(vocab=known, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    replace = normalizers.Replace(" ", "\u2581")
    prepend = normalizers.Sequence([normalizers.Prepend("\u2581"), replace])
    backend.normalizer = prepend if space_before else replace
    return _finished(backend, before, after, unk_token="<unk>", **_SPECIAL)


def word_piece(**options: Any) -> Any:
    """Return BERT's tokenizer with a small vocabulary."""
    letters = sorted(set("".join(SAMPLE).lower()) | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    letters = [x for x in letters if not x.isspace()]
    words = ["the", "plant", "##s", "sugar", "water", "##ing", "caf"]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys([*special, *letters, *(f"##{x}" for x in letters), *words])
    vocab = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(**options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return _finished(backend, "[CLS]", "[SEP]", **names)


def unigram() -> Any:
    """Return a Unigram tokenizer as XLM-RoBERTa has it, or skip the test without SentencePiece."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    written = BytesIO()
    sentences = iter([*SAMPLE * 5, "abcdefghijklmnopqrstuvwxyz 0123456789"])
    trainer.train(
        sentence_iterator=sentences,
        model_writer=written,
        vocab_size=200,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = proto.ModelProto.FromString(written.getvalue())
    first = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(piece.piece, piece.score) for piece in model.pieces][3:]
    backend = Tokenizer(models.Unigram([*first, *pieces, ("<mask>", 0.0)], unk_id=3))
    backend.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
    words = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    return _finished(backend, "<s>", "</s>", unk_token="<unk>", mask_token="<mask>", **_SPECIAL)


TOKENIZERS = {
    "llama": lambda: byte_level("llama-bpe", before="<s>"),
    "mistral": sentence_piece,
    "qwen2": lambda: byte_level("qwen2"),
    "qwen3": lambda: byte_level("qwen2"),
    "gemma": lambda: sentence_piece(space_before=False),
    "gemma2": lambda: sentence_piece(space_before=False),
    "gemma3_text": lambda: sentence_piece(space_before=False),
    "bert": word_piece,
    "distilbert": word_piece,
    "roberta": lambda: byte_level("gpt-2", before="<s>"),
    "xlm-roberta": unigram,
    "modernbert": lambda: byte_level("gpt-2", before="<s>"),
}
"""Family -> a tokenizer of the kind that it has."""
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32},
    "gemma": GROUPED,
    "gemma2": {**GROUPED, "query_pre_attn_scalar": 16, "sliding_window": 24},
    "gemma3_text": {
        **GROUPED,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "num_hidden_layers": 7,
    },
    "xlm-roberta": {"pad_token_id": 1, "bos_token_id": 0},
    "modernbert": {"local_attention": 24, "cls_token_id": 1, "sep_token_id": 2},
}


def save_tiny(family: str, folder: Path, tokenizer: Any = None, **options: Any) -> Path:
    """Write a bare folder of a random model with a tokenizer that llama.cpp has."""
    tokenizer = tokenizer or TOKENIZERS[family]()
    sizes = {**SIZES, **OPTIONS.get(family, {}), "vocab_size": len(tokenizer), **options}
    if family == "distilbert":
        sizes["hidden_dim"] = sizes["intermediate_size"]
    tiny_model(family, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_pruned(family: str, place: Path, **parts: Any) -> Path:
    """Write a base and what a plan leaves of it; by default something of every kind is gone."""
    base = load(save_tiny(family, place / "bare"), prompts={"query": "query: "})
    parts = parts or {
        "drop_mlp": (1,),
        "drop_attention": (2,),
        "neurons": {3: torch.arange(10, 74)},
    }
    export(
        base, PruningPlan(base=BaseIdentity.of(base[0].model, "tiny"), **parts), place / "pruned"
    )
    return place / "pruned"
