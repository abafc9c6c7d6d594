"""From texts to vectors by a graph, whichever runtime runs it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.inputs import listed
from ..data.text import ROLE_PROMPTS, clean_text
from .folder import FolderSettings, read_tokenizer, special_ids

logger = logging.getLogger(__name__)

IDS, MASK, PROMPT_LENGTH, OUTPUT = (
    "input_ids",
    "attention_mask",
    "prompt_length",
    "sentence_embedding",
)
"""What the graph takes and gives. Only graphs that leave the prompt out of pooling take its length;
a runtime that does not know of it is refused by the graph, and does not pool what it should not."""
_WINDOW = 4096
"""Texts that are tokenised and sorted together."""
_PADDING = 64
"""Padding tokens at which a batch is cut: about what another batch costs."""


class GraphEncoder(ABC):
    """Tokenises texts, runs a graph over batches of similar length, and keeps the order."""

    batch_tokens: int = 4096
    """Padded tokens of a batch, at most; a longer text has a batch of its own."""

    def __init__(self, folder: str | Path, *, file: Path, to: str, threads: int | None) -> None:
        """Find the graph, and read what lies beside it.

        Args:
            folder: That `effir convert` wrote.
            file: The graph, relative to it.
            to: The format, for the error.
            threads: That the runtime is to take.

        Raises:
            FileNotFoundError: It is no such folder.
            ValueError: A file is damaged, or `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads} must be at least 1")
        self.folder = Path(folder)
        self._path = self.folder / file
        if not self._path.is_file():
            raise FileNotFoundError(
                f"{self._path} is not there; write the folder by: effir convert MODEL OUT --to {to}"
            )
        self._settings = FolderSettings.read(self.folder)
        self._tokenizer = read_tokenizer(self.folder, self._settings)
        self._pad_id: int = self._tokenizer.token_to_id(self._settings.pad_token)

    @property
    @abstractmethod
    def dimension(self) -> int:
        """How many numbers a vector has."""

    @property
    @abstractmethod
    def _takes_prompt_length(self) -> bool:
        """Whether the graph leaves the prompt out of pooling."""

    @abstractmethod
    def _run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what the graph makes of one batch, (batch, dimension)."""

    @property
    def prompts(self) -> dict[str, str]:
        """Name -> text that is put in front."""
        return dict(self._settings.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt that is taken where none is asked for."""
        return self._settings.default_prompt_name

    @property
    def max_length(self) -> int:
        """How many tokens a text is cut to."""
        return self._settings.max_length

    def encode(
        self,
        texts: Any,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int | None = None,
        normalize: bool = False,
        truncate_dim: int | None = None,
    ) -> np.ndarray:
        """Embed texts.

        Args:
            texts: A text, or texts in an order: a list, a tuple, an array, a column.
            prompt: Put in front of every text.
            prompt_name: The same by its name in `prompts`; ignored where `prompt` is given.
            batch_tokens: As of the class, for this call.
            normalize: Scale vectors to unit length, after they were cut.
            truncate_dim: Keep that many leading numbers of each.

        Returns:
            float32, (texts, dimension) in the order of the texts, or (dimension,) of one text.

        Raises:
            ValueError: A text is no string, the prompt is not known, or a number is out of range.
        """
        found = listed(texts)
        is_one = not isinstance(found, list)
        rows = [found] if is_one else found
        self._check(rows, truncate_dim, batch_tokens)
        chosen = self._chosen_prompt(prompt, prompt_name)
        vectors = self._embed([clean_text(chosen + text) for text in rows], chosen, batch_tokens)
        if truncate_dim is not None:
            vectors = np.ascontiguousarray(vectors[:, :truncate_dim])
        if normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, 1e-12)
        result: np.ndarray = vectors[0] if is_one else vectors
        return result

    def encode_query(self, texts: Any, **options: Any) -> np.ndarray:
        """Embed queries, by the model's prompt for them unless `options` name another."""
        return self.encode(texts, **self._with_role("query", options))

    def encode_document(self, texts: Any, **options: Any) -> np.ndarray:
        """Embed documents, by the model's prompt for them unless `options` name another."""
        return self.encode(texts, **self._with_role("document", options))

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, cut to `max_length`, with no prompt and no padding."""
        encoded = self._tokenizer.encode_batch_fast([clean_text(text) for text in texts])
        return [one.ids for one in encoded]

    def embed_ids(
        self, ids: Sequence[Sequence[int]], *, padding_side: str = "right", prompt_length: int = 0
    ) -> np.ndarray:
        """Return the vectors of token lists that run as one batch, (batch, dimension).

        Args:
            ids: None of them empty.
            padding_side: On which side shorter ones are filled up: right or left.
            prompt_length: Tokens in front that pooling leaves out, if it does.
        """
        longest = max(map(len, ids))
        padded = np.full((len(ids), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros_like(padded)
        for row, tokens in enumerate(ids):
            place = slice(0, len(tokens)) if padding_side == "right" else slice(-len(tokens), None)
            padded[row, place], mask[row, place] = tokens, 1
        inputs = {IDS: padded, MASK: mask}
        if self._takes_prompt_length:
            inputs[PROMPT_LENGTH] = np.array([prompt_length], dtype=np.int64)
        return np.asarray(self._run(inputs), dtype=np.float32)

    def _embed(self, texts: list[str], prompt: str, batch_tokens: int | None) -> np.ndarray:
        """Return the vectors of whole texts, each different one run once."""
        places = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        unique = list(places)
        vectors = np.zeros((len(unique), self.dimension), dtype=np.float32)
        shared = self._prompt_length(prompt)
        for start in range(0, len(unique), _WINDOW):
            ids = self.token_ids(unique[start : start + _WINDOW])
            for rows in _batches(ids, batch_tokens or self.batch_tokens):
                batch = self.embed_ids([ids[row] for row in rows], prompt_length=shared)
                vectors[[start + row for row in rows]] = batch
        return vectors[[places[text] for text in texts]]

    def _prompt_length(self, prompt: str) -> int:
        """Return the tokens of a prompt as Sentence Transformers counts them."""
        if not prompt or not self._takes_prompt_length:
            return 0
        (ids,) = self.token_ids([prompt])
        ends = bool(ids) and ids[-1] in special_ids(self.folder, self._tokenizer)
        return len(ids) - ends

    def _chosen_prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if name is not None:
                logger.warning("prompt and prompt_name are given; prompt_name=%r is ignored", name)
            return prompt
        if name is None:
            return self.prompts.get(self.default_prompt_name or "", "")
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise ValueError(f"prompt_name={name!r} is not known; the model has: {known}")
        return self.prompts[name]

    def _with_role(self, role: str, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            names = [name for name in ROLE_PROMPTS[role] if name in self.prompts]
            return {**options, "prompt_name": names[0] if names else None}
        return options

    def _check(
        self, texts: Sequence[Any], truncate_dim: int | None, batch_tokens: int | None
    ) -> None:
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"text {place} of {len(texts)} is {type(text).__name__} ({text!r:.60}), and "
                    "only strings can be encoded; decode bytes, and leave missing texts out"
                )
        if truncate_dim is not None and not 1 <= truncate_dim <= self.dimension:
            raise ValueError(
                f"truncate_dim={truncate_dim}, but the vectors have {self.dimension} dimensions; "
                f"choose 1 to {self.dimension}"
            )
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens={batch_tokens} must be at least 1")


def _batches(ids: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Yield rows, longest first, cut where the next would exceed the budget or pad too much.

    A text without a token is in none: its vector is zero.
    """
    batch: list[int] = []
    longest = padding = 0
    for row in sorted(filter(ids.__getitem__, range(len(ids))), key=lambda row: -len(ids[row])):
        more = longest - len(ids[row])
        if batch and ((len(batch) + 1) * longest > batch_tokens or padding + more > _PADDING):
            yield batch
            batch = []
        if not batch:
            longest, padding, more = len(ids[row]), 0, 0
        batch.append(row)
        padding += more
    if batch:
        yield batch
