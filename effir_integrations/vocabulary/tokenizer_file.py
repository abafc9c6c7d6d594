"""A tokenizer by its tokenizer.json: every token's id, and the same tokenizer with fewer tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..encoder.tokenization import save_tokenizer
from ..files import read_json, write_json
from .kinds import kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN = ("ByteLevel",)
"""Post-processors that name no token."""


class Vocabulary:
    """The tokens of a tokenizer, and which of them it cannot do without."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """Read it.

        Args:
            tokenizer: A fast one.
            name: Of the model, for errors.

        Raises:
            ValueError: There is no tokenizer.json behind it, or one of a kind that cannot be
                trimmed.
        """
        self.tokenizer = tokenizer
        if not tokenizer.is_fast:
            raise ValueError(
                f"the tokenizer of {name} is a {type(tokenizer).__name__} "
                "without a tokenizer.json, which is what is trimmed; convert it to a fast one, "
                "save that into the folder, and try again"
            )
        self.content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        self.kind = kind_of(self.content["model"], name)
        self.ids = {
            **self.kind.ids,
            **{entry["content"]: entry["id"] for entry in self.content["added_tokens"]},
        }
        self.tokens = {place: token for token, place in self.ids.items()}
        self._parts: dict[int, frozenset[int]] = {}

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    def always(self) -> set[int]:
        """Return the ids that stay whatever the texts: added and special ones, and spelling."""
        added = {entry["id"] for entry in self.content["added_tokens"]}
        return added | {self.ids[token] for token in self.kind.needed()}

    def with_parts(self, token: int) -> frozenset[int]:
        """Return the ids that a token needs: its own, and of those that it is put together of."""
        if token not in self._parts:
            parts = self.kind.parts(self.tokens[token])
            self._parts[token] = frozenset({token, *(self.ids[part] for part in parts)})
        return self._parts[token]

    @cached_property
    def surfaces(self) -> dict[int, str]:
        """The text that every token stands for, by its id; U+FFFD of a part of a letter."""
        ids = sorted(self.tokens)
        texts = self.tokenizer.backend_tokenizer.decode_batch(
            [[place] for place in ids], skip_special_tokens=False
        )
        return dict(zip(ids, texts, strict=True))

    def cut(self, kept: Iterable[int]) -> PreTrainedTokenizerBase:
        """Return the tokenizer with some of its tokens, numbered anew in their order.

        Args:
            kept: Ids that stay: all of `always`, and with each token its parts.

        Raises:
            ValueError: It names tokens in a place that is not known.
            RuntimeError: The new one does not know its tokens by these numbers.
        """
        new_ids = {old: new for new, old in enumerate(sorted(kept))}
        content = self._content(new_ids)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            save_tokenizer(self.tokenizer, folder)
            write_json(folder / "tokenizer.json", content)
            path = folder / "tokenizer_config.json"
            settings = read_json(path, "what a tokenizer saves")
            settings.pop("added_tokens_decoder", None)
            write_json(path, settings)
            made = _load(folder)
        made.name_or_path = self.tokenizer.name_or_path
        found = made.get_vocab()
        expected = {self.tokens[old]: new for old, new in new_ids.items()}
        if found != expected:
            token = next(x for x in {**expected, **found} if expected.get(x) != found.get(x))
            raise RuntimeError(
                f"the trimmed tokenizer numbers {token!r} {found.get(token)} instead of "
                f"{expected.get(token)}; nothing was written, please report this with the model's "
                "name"
            )
        return made

    def _content(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        model_ids = set(self.kind.ids.values())
        own = {self.tokens[x]: new for x, new in new_ids.items() if x in model_ids}
        content = {**self.content, "model": self.kind.cut(own)}
        content["added_tokens"] = [
            {**entry, "id": new_ids[entry["id"]]} for entry in self.content["added_tokens"]
        ]
        content["post_processor"] = _renamed(self.content.get("post_processor"), new_ids)
        if padding := self.content.get("padding"):
            content["padding"] = {**padding, "pad_id": new_ids[padding["pad_id"]]}
        return content


def _load(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(folder)
    return made


def _renamed(processor: dict[str, Any] | None, new_ids: Mapping[int, int]) -> Any:
    """Return a post-processor whose tokens have their new ids."""
    kind = None if processor is None else processor["type"]
    if processor is None or kind in _PLAIN:
        return processor
    if kind == "Sequence":
        parts = [_renamed(part, new_ids) for part in processor["processors"]]
        return {**processor, "processors": parts}
    if kind in ("BertProcessing", "RobertaProcessing"):
        ends = {name: [processor[name][0], new_ids[processor[name][1]]] for name in ("sep", "cls")}
        return {**processor, **ends}
    if kind == "TemplateProcessing":
        tokens = {
            name: {**entry, "ids": [new_ids[x] for x in entry["ids"]]}
            for name, entry in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": tokens}
    raise ValueError(
        f"the tokenizer ends in a {kind}, which may name tokens by their ids; those of "
        f"{', '.join((*_PLAIN, 'BertProcessing', 'RobertaProcessing', 'TemplateProcessing'))} "
        "are known"
    )
