"""Tokenizers as llama.cpp has them: recognised by what they do, and refused where it has none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category, normalize

from .gguf_forms import (
    BYTE_LEVEL,
    NORMALIZERS,
    SPACES,
    pre_tokenizer_of,
    steps,
    unigram,
    word_piece,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of a token, as llama.cpp numbers them."""
_PHANTOM = "\u2581"
"""Stands for the space before a word."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What the file says of a tokenizer."""

    model: str
    """llama.cpp's name of the algorithm; `none`: the file takes token ids alone."""
    pre: str = "default"
    """Its name of how texts are cut before."""
    tokens: Sequence[str] = ()
    types: Sequence[int] = ()
    scores: Sequence[float] | None = None
    merges: Sequence[str] | None = None
    special: dict[str, int] = field(default_factory=dict)
    """bos, eos, unk, sep, pad, mask -> id."""
    adds_bos: bool = False
    adds_eos: bool = False
    space_before: bool | None = None
    """Whether a text gets a space in front; None: the algorithm does not ask."""
    charsmap: bytes | None = None
    """How SentencePiece normalises texts, as it compiles that."""
    drops_marks: bool = False
    """Whether llama.cpp drops more signs than accents."""
    notes: Sequence[str] = ()
    """What differs from the folder's tokenizer."""

    def cuts_alike(self, text: str) -> bool:
        """Say whether a text is cut as by the folder's tokenizer, notes and all."""
        return not (self.drops_marks and any(map(_is_dropped, normalize("NFD", text))))


def _is_dropped(letter: str) -> bool:
    """Say whether a letter is a mark but no accent, or a vowel or final of Korean."""
    return category(letter) in ("Mc", "Me") or "\u1160" <= letter <= "\u11ff"


def vocabulary_of(tokenizer: Any, rows: int) -> Vocabulary:
    """Return a tokenizer in llama.cpp's terms.

    Args:
        tokenizer: A fast tokenizer of Transformers.
        rows: Of the table of embeddings; ids without a token are filled.

    Raises:
        ValueError: llama.cpp has no tokenizer that gives the same ids.
    """
    if not getattr(tokenizer, "is_fast", False):
        refuse("it is a slow one, without tokenizer.json")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = content["model"]["type"]
    if kind == "WordPiece":
        return _word_piece(tokenizer, content, rows)
    if kind == "Unigram":
        return _unigram(tokenizer, content, rows)
    if kind == "BPE" and content["model"].get("byte_fallback"):
        return _sentence_piece(tokenizer, content, rows)
    if kind == "BPE":
        return _byte_level(tokenizer, content, rows)
    return refuse(f"its model is {kind}, and BPE, WordPiece and Unigram are what is written")


def refuse(reason: str) -> Any:
    """Raise a ValueError that says why a tokenizer cannot be held, and what else there is."""
    raise ValueError(
        f"llama.cpp has no tokenizer like that of this folder: {reason}; choose --to onnx, or "
        "--to gguf-ids, a file that takes token ids"
    )


def _byte_level(tokenizer: Any, content: dict[str, Any], rows: int) -> Vocabulary:
    model = content["model"]
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            refuse(f"{name} is {model[name]!r}")
    normalizer = steps(content["normalizer"], "normalizers")
    if normalizer not in NORMALIZERS:
        refuse(f"it normalises texts by {_named(normalizer)}")
    pre = pre_tokenizer_of(content["pre_tokenizer"], bool(model.get("ignore_merges")), BYTE_LEVEL)
    if pre is None:
        refuse(f"it cuts texts by {_named(steps(content['pre_tokenizer'], 'pretokenizers'))}")
    tokens, types = _tokens(content, rows)
    special = _around(tokenizer, {"bos": "bos", "eos": "eos"})
    return Vocabulary(
        model="gpt2",
        pre=str(pre),
        tokens=tokens,
        types=types,
        merges=[x if isinstance(x, str) else " ".join(x) for x in model["merges"]],
        notes=NORMALIZERS[normalizer],
        **special,
    )


def _sentence_piece(tokenizer: Any, content: dict[str, Any], rows: int) -> Vocabulary:
    form = (
        steps(content["normalizer"], "normalizers"),
        steps(content["pre_tokenizer"], "pretokenizers"),
    )
    if form not in SPACES:
        refuse(f"it normalises and cuts texts by {_named(form[0] + form[1])}")
    tokens, types = _tokens(content, rows)
    unknown = content["model"].get("unk_token")
    for place, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x"):
            types[place] = BYTE
        elif token == unknown:
            types[place] = UNKNOWN
    if types.count(BYTE) != 256:
        refuse(f"it has {types.count(BYTE)} of the 256 bytes as tokens")
    return Vocabulary(
        model="llama",
        tokens=tokens,
        types=types,
        scores=_scores(content, tokens, types),
        space_before=SPACES[form],
        **_around(tokenizer, {"bos": "bos", "eos": "eos"}),
    )


def _scores(content: dict[str, Any], tokens: list[str], types: list[int]) -> list[float]:
    """Return the scores by which llama.cpp joins pieces in the order of the merges.

    It joins whatever two pieces make a token, the token of the highest score first; so the merges
    must hold all such pairs, and those of one token must follow each other.
    """
    known = {token for token, kind in zip(tokens, types, strict=True) if kind != UNUSED}
    ranks: dict[str, list[int]] = {}
    for rank, merge in enumerate(content["model"]["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, []).append(rank)
    for token, kind in zip(tokens, types, strict=True):
        found = ranks.get(token, [])
        cuts = range(1, len(token)) if kind == NORMAL else ()
        pairs = sum(token[:cut] in known and token[cut:] in known for cut in cuts)
        if kind == NORMAL and (
            len(found) != pairs or (found and found[-1] - found[0] != pairs - 1)
        ):
            refuse(f"it joins {token!r} in {len(found)} of the {pairs} ways that llama.cpp would")
    return [-float(ranks[token][0] + 1) if token in ranks else 0.0 for token in tokens]


def _unigram(tokenizer: Any, content: dict[str, Any], rows: int) -> Vocabulary:
    model = content["model"]
    charsmap, reason = unigram(content)
    if model["unk_id"] is None:
        reason = "it has no token for what it does not know"
    if reason:
        refuse(reason)
    pieces = [piece for piece, _ in model["vocab"]]
    known = {**content, "model": {"vocab": {piece: x for x, piece in enumerate(pieces)}}}
    tokens, types = _tokens(known, rows)
    types[model["unk_id"]] = UNKNOWN
    scores = [score for _, score in model["vocab"]]
    around = _around(tokenizer, {"bos": "bos", "eos": "eos"})
    around["special"]["unk"] = model["unk_id"]
    return Vocabulary(
        model="t5",
        tokens=tokens,
        types=types,
        scores=[*scores, *[0.0] * (rows - len(scores))],
        space_before=True,
        charsmap=charsmap,
        **around,
    )


def _word_piece(tokenizer: Any, content: dict[str, Any], rows: int) -> Vocabulary:
    reason = word_piece(content)
    if reason:
        refuse(reason)
    tokens, types = _tokens(content, rows)
    phantom = [
        token if kind != NORMAL else token[2:] if token.startswith("##") else _PHANTOM + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    around = _around(tokenizer, {"bos": "bos", "eos": "sep"})
    if not (around["adds_bos"] and around["adds_eos"]):
        refuse("it does not put a token before and after each text")
    around["special"]["unk"] = content["model"]["vocab"][content["model"]["unk_token"]]
    return Vocabulary(
        model="bert",
        tokens=phantom,
        types=types,
        drops_marks=True,
        notes=[
            "llama.cpp drops vowel signs of Korean, Hindi and other scripts that the folder's "
            "tokenizer keeps: such texts get other tokens.",
            f"A word of more than {content['model']['max_input_chars_per_word']} letters is one "
            "unknown token in the folder, and cut into pieces by llama.cpp.",
        ],
        **around,
    )


def _tokens(content: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Return the tokens by id, and their types."""
    added = {x["id"]: x for x in content["added_tokens"]}
    by_id = {number: token for token, number in content["model"]["vocab"].items()}
    by_id.update({number: x["content"] for number, x in added.items()})
    if max(by_id) >= rows:
        refuse(f"it has ids up to {max(by_id)}, and the model {rows} rows of embeddings")
    types = [NORMAL if number in by_id else UNUSED for number in range(rows)]
    for number, token in added.items():
        types[number] = CONTROL if token["special"] else USER_DEFINED
    return [by_id.get(number, f"[PAD{number}]") for number in range(rows)], types


def _around(tokenizer: Any, names: dict[str, str]) -> dict[str, Any]:
    """Return which tokens are put before and after a text, under llama.cpp's names of these."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    places = [x for x in range(len(whole)) if whole[x : x + len(plain)] == plain]
    if not plain or not places:
        refuse("what it puts around a text cannot be told from the text")
    start = places[0]
    before, after = whole[:start], whole[start + len(plain) :]
    if len(before) > 1 or len(after) > 1:
        refuse(f"it puts {len(before)} tokens before and {len(after)} after each text")
    special = {
        name: number
        for name in ("bos", "eos", "unk", "sep", "pad", "mask")
        if (number := getattr(tokenizer, f"{name}_token_id", None)) is not None
    }
    special.update({names["bos"]: x for x in before})
    special.update({names["eos"]: x for x in after})
    return {"special": special, "adds_bos": bool(before), "adds_eos": bool(after)}


def _named(parts: tuple[str, ...]) -> str:
    return ", then ".join(parts) or "nothing"


def add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Put a tokenizer into the metadata of a `gguf.GGUFWriter`."""
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.model == "none":
        return
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(vocabulary.adds_eos)
    if vocabulary.space_before is not None:
        writer.add_add_space_prefix(vocabulary.space_before)
    if vocabulary.charsmap is not None:
        writer.add_remove_extra_whitespaces(True)
        writer.add_precompiled_charsmap(vocabulary.charsmap)
