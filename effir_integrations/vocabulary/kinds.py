"""What each kind of tokenizer needs of its vocabulary to go on splitting texts as before.

One class a kind, around the `model` of a tokenizer.json: the tokens that always stay, those that
another one is made of, and the same model with fewer tokens. With these kept, a text all of whose
tokens stay is split as before:

* BPE applies the best merge that is left, again and again. Every merge that made the text's tokens
  is there, so each is still the best one when its turn comes.
* WordPiece takes the longest piece that fits. What was the longest of all is that of fewer, too.
* Unigram takes the best-scored way to split. What was the best of all is that of fewer, too; the
  token of the lowest score stays, because what an unknown character costs is counted from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BYTES = frozenset(f"<0x{value:02X}>" for value in range(256))
"""Tokens that characters without a token of their own are spelled with."""

SPACE = "\u2581"
"""What stands for a space in tokenizers that spell by bytes, and is read back only as a token."""


class Bpe:
    """Byte-pair encoding, on bytes or on characters."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = model
        self.tokens: list[str] = sorted(model["vocab"], key=model["vocab"].__getitem__)
        self.ids: Mapping[str, int] = model["vocab"]
        self._pairs = [_pair(merge) for merge in model["merges"]]
        self._ranks = {pair: rank for rank, pair in reversed(list(enumerate(self._pairs)))}

    def refusal(self) -> str:
        """Return why this one cannot be trimmed, or nothing."""
        named = ("continuing_subword_prefix", "end_of_word_suffix")
        found = next((x for x in named if self.model.get(x)), None)
        return f"BPE with {found}={self.model[found]!r}" if found else ""

    def needed(self) -> set[str]:
        """Return the tokens that any text may fall back on."""
        return _unknown(self.model, self.ids) | _spelling(self.model, self.ids)

    def parts(self, token: str) -> set[str]:
        """Return the tokens that lie between the characters of a token and itself."""
        symbols, found = list(token), set(token)
        while len(symbols) > 1:
            pairs = list(zip(symbols, symbols[1:], strict=False))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            place = pairs.index(best)
            symbols[place : place + 2] = ["".join(best)]
            found.add(symbols[place])
        return found & self.ids.keys()

    def cut(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return the model with these tokens, under these ids."""
        merges = [
            merge
            for merge, pair in zip(self.model["merges"], self._pairs, strict=True)
            if {*pair, "".join(pair)} <= kept.keys()
        ]
        return {**self.model, "vocab": dict(kept), "merges": merges}


class WordPiece:
    """The longest piece that fits, then the longest of what is left of the word."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = model
        self.tokens: list[str] = sorted(model["vocab"], key=model["vocab"].__getitem__)
        self.ids: Mapping[str, int] = model["vocab"]

    def refusal(self) -> str:
        """Return why this one cannot be trimmed, or nothing."""
        return ""

    def needed(self) -> set[str]:
        """Return the tokens that any text may fall back on."""
        inside = self.model["continuing_subword_prefix"]
        found = _unknown(self.model, self.ids)
        for token in self.tokens:
            continues = token.startswith(inside) and token != inside
            characters = token.removeprefix(inside) if continues else token
            first = f"{inside if continues else ''}{characters[0]}"
            spelled = {first, *(f"{inside}{x}" for x in characters[1:])}
            if len(characters) == 1 or not spelled <= self.ids.keys():
                found.add(token)
        return found

    def parts(self, token: str) -> set[str]:
        """Return nothing: a piece is found by itself."""
        return set()

    def cut(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return the model with these tokens, under these ids."""
        return {**self.model, "vocab": dict(kept)}


class Unigram:
    """The way to split a text whose tokens have the highest scores together."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = model
        self.tokens: list[str] = [token for token, _ in model["vocab"]]
        self.ids: Mapping[str, int] = {token: place for place, token in enumerate(self.tokens)}

    def refusal(self) -> str:
        """Return why this one cannot be trimmed, or nothing."""
        return ""

    def needed(self) -> set[str]:
        """Return the tokens that any text may fall back on, and the one of the lowest score."""
        lowest = min(self.model["vocab"], key=lambda entry: entry[1])[0]
        unknown = self.model.get("unk_id")
        return {
            lowest,
            *([] if unknown is None else [self.tokens[unknown]]),
            *_spelling(self.model, self.ids),
        }

    def parts(self, token: str) -> set[str]:
        """Return nothing: a piece is found by itself."""
        return set()

    def cut(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return the model with these tokens, under these ids, which must go from 0 upwards."""
        scores = dict(self.model["vocab"])
        unknown = self.model.get("unk_id")
        return {
            **self.model,
            "vocab": [[token, scores[token]] for token in kept],
            "unk_id": None if unknown is None else kept[self.tokens[unknown]],
        }


KINDS: dict[str, type[Bpe | WordPiece | Unigram]] = {
    "BPE": Bpe,
    "WordPiece": WordPiece,
    "Unigram": Unigram,
}
"""Type in tokenizer.json -> what knows it."""


def kind_of(model: Mapping[str, Any], name: str) -> Bpe | WordPiece | Unigram:
    """Return what knows the `model` of a tokenizer.json.

    Raises:
        ValueError: No kind does.
    """
    made = KINDS[model["type"]](model) if model["type"] in KINDS else None
    reason = str(model["type"]) if made is None else made.refusal()
    if made is None or reason:
        raise ValueError(
            f"the tokenizer of {name} is {reason}, which cannot be trimmed: it has no smaller "
            f"pieces to fall back on, or none that are known; {', '.join(KINDS)} can be"
        )
    return made


def _pair(merge: str | list[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _unknown(model: Mapping[str, Any], ids: Mapping[str, int]) -> set[str]:
    return {model["unk_token"]} & ids.keys() if model.get("unk_token") else set()


def _spelling(model: Mapping[str, Any], ids: Mapping[str, int]) -> set[str]:
    """Return the bytes where characters fall back on them, else what is spelled by characters."""
    if model.get("byte_fallback") and ids.keys() >= BYTES:
        return {*BYTES, *(ids.keys() & {SPACE})}
    single = {token for token in ids if len(token) == 1}
    return single | {token for token in ids if not set(token) <= single}
