r"""Which parts of a tokenizer.json are what llama.cpp does, and under which of its names.

A part is compared as it stands: what is not in these tables is not recognised.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"\p{N}" + _REST
_IGNORED = ("trim_offsets",)
"""Settings of a part that no id depends on."""


def steps(part: dict[str, Any] | None, inner: str) -> tuple[str, ...]:
    """Return the parts of a normalizer or pre-tokenizer, one after the other, as sorted JSON.

    Args:
        part: From tokenizer.json.
        inner: Where a sequence keeps its parts: `normalizers` or `pretokenizers`.
    """
    if part is None:
        return ()
    if part["type"] == "Sequence":
        return tuple(step for x in part[inner] for step in steps(x, inner))
    return (_step(**{name: value for name, value in part.items() if name not in _IGNORED}),)


def _step(**settings: Any) -> str:
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def _split(regex: str) -> str:
    return _step(type="Split", pattern={"Regex": regex}, behavior="Isolated", invert=False)


def _bytes(use_regex: bool) -> str:
    return _step(type="ByteLevel", add_prefix_space=False, use_regex=use_regex)


BYTE_LEVEL: dict[tuple[tuple[str, ...], bool], str] = {
    ((_bytes(True),), False): "gpt-2",
    ((_step(type="Digits", individual_digits=True), _bytes(True)), False): "smollm",
    ((_split(_QWEN2), _bytes(False)), False): "qwen2",
    ((_split(_LLAMA3), _bytes(False)), True): "llama-bpe",
    ((_split(_LLAMA3), _bytes(False)), False): "smaug-bpe",
}
"""(parts of the pre-tokenizer, whether whole words go before merges) -> name."""

NORMALIZERS: dict[tuple[str, ...], tuple[str, ...]] = {
    (): (),
    (_step(type="NFC"),): (
        "The folder brings texts into the Unicode form NFC, and llama.cpp leaves them as they are: "
        "give it texts in that form.",
    ),
}
"""Normalizer of byte-level BPE -> what its users must know."""

_TO_PHANTOM = _step(type="Replace", pattern={"String": " "}, content="\u2581")
_METASPACE = {"type": "Metaspace", "replacement": "\u2581", "split": False}
SPACES: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {
    ((_step(type="Prepend", prepend="\u2581"), _TO_PHANTOM), ()): True,
    ((), (_step(**_METASPACE, prepend_scheme="always"),)): True,
    ((), (_step(**_METASPACE, prepend_scheme="first"),)): True,
    ((), (_step(**_METASPACE, prepend_scheme="never"),)): False,
    ((_TO_PHANTOM,), ()): False,
    (
        (_TO_PHANTOM,),
        (
            _step(
                type="Split",
                pattern={"String": " "},
                behavior="MergedWithPrevious",
                invert=False,
            ),
        ),
    ): False,
}
"""(normalizer, pre-tokenizer) of BPE that falls back on bytes -> whether a space goes in front."""


def pre_tokenizer_of(
    part: dict[str, Any] | None,
    ignores_merges: bool,
    known: dict[tuple[tuple[str, ...], bool], str],
) -> str | None:
    """Return llama.cpp's name of a pre-tokenizer, or None where it has none."""
    return known.get((steps(part, "pretokenizers"), ignores_merges))


_ONE_SPACE = _step(type="Replace", pattern={"Regex": " {2,}"}, content=" ")
_WORDS = (
    _step(type="WhitespaceSplit"),
    _step(type="Metaspace", replacement="\u2581", prepend_scheme="always", split=True),
)


def unigram(content: dict[str, Any]) -> tuple[bytes, str]:
    """Return how a Unigram tokenizer normalises texts, as SentencePiece compiles that.

    And what of the tokenizer llama.cpp does not do; nothing: an empty text.
    """
    found = steps(content["normalizer"], "normalizers")
    first = json.loads(found[0]) if found else {}
    if first.get("type") != "Precompiled" or found[1:] not in ((), (_ONE_SPACE,)):
        return b"", f"it normalises texts by {[json.loads(x)['type'] for x in found]}"
    if steps(content["pre_tokenizer"], "pretokenizers") != _WORDS:
        return b"", f"it cuts texts by {content['pre_tokenizer']}"
    if content["model"].get("byte_fallback"):
        return b"", "it is Unigram and falls back on bytes"
    return b64decode(first["precompiled_charsmap"]), ""


def word_piece(content: dict[str, Any]) -> str:
    """Say what of a WordPiece tokenizer llama.cpp does not do; nothing: an empty text."""
    model, normalizer = content["model"], content["normalizer"] or {}
    expected = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    if {name: normalizer.get(name) for name in expected} != expected:
        return f"it normalises texts by {normalizer or 'nothing'}"
    if not normalizer["lowercase"] or normalizer["strip_accents"] is False:
        return "it keeps upper case or accents"
    if (content["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer":
        return f"it cuts texts by {content['pre_tokenizer']}"
    if model["continuing_subword_prefix"] != "##":
        return f"pieces within a word begin with {model['continuing_subword_prefix']!r}"
    return ""
