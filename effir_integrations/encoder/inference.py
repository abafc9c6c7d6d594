"""Run texts through an encoder: every text once, by length, in batches of equal cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
)
from sentence_transformers.util import truncate_embeddings

from ..model.families import find
from . import prefix
from .heads import run_head, widened
from .last_block import PooledToken, pooled_token_only

if TYPE_CHECKING:
    from .encoder import Encoder
    from .shortcuts import Shortcuts

logger = logging.getLogger(__name__)

TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""Written into every folder: without it, a chat template in the tokenizer rewrites every text."""
WINDOW = 4096
"""Texts that are tokenised and sorted together."""


def _as_it_is(vectors: torch.Tensor) -> torch.Tensor:
    return vectors


class Inference:
    """Embeds texts with one encoder on one device; made for each call, and cheap to make."""

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        shortcuts: Shortcuts,
        *,
        limit: int | None = None,
        finish: Callable[[torch.Tensor], torch.Tensor] = _as_it_is,
        advance: Callable[[int, int], None] | None = None,
    ) -> None:
        """Look up what the encoder's modules allow.

        Args:
            encoder: Its first module is a Transformer that takes text.
            device: Where it lies.
            shortcuts: What may be left out.
            limit: Tokens a text is cut to.
            finish: Applied to each batch of vectors, (batch, dimension).
            advance: Told the texts and the real tokens of each batch that is done.
        """
        self.encoder: Any = encoder
        model: Any = self.encoder[0].model
        self.model = model
        self.tokenizer: Any = encoder.tokenizer
        self.device = device
        self.shortcuts = shortcuts
        self.limit = limit
        self.finish = finish
        self.advance = advance or (lambda texts, tokens: None)
        self.pooling = single_token_pooling(encoder)
        self.shapes = encoder.shapes
        self.steady_length = prefix.steady_length(model.config)

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the vectors of texts, (texts, dimension), in their order; equal texts run once."""
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        unique = list(distinct)
        vectors: torch.Tensor | None = None
        with no_mask_needed(self.model), self.last_block() as pooled:
            for start in range(0, len(unique), WINDOW):
                part = self._embed_window(unique[start : start + WINDOW], pooled)
                if vectors is None:
                    vectors = part.new_empty((len(unique), part.shape[1]))
                vectors[start : start + len(part)] = part
        assert vectors is not None  # noqa: S101 - there is a text, so there was a window
        if len(unique) == len(texts):
            return vectors
        rows = torch.tensor([distinct[text] for text in texts], device=vectors.device)
        return vectors.index_select(0, rows)

    def last_block(self) -> AbstractContextManager[PooledToken | None]:
        """Let the last block compute less while the context lasts, where that is right."""
        shortened = self.shortcuts.pooled_alone and self.shapes is None
        return pooled_token_only(self.model) if shortened else nullcontext()

    def _embed_window(self, texts: list[str], pooled: PooledToken | None) -> torch.Tensor:
        ids = self._tokenise(texts)
        shared = self._run_prefix(ids)
        own = ids if shared is None else [row[shared.length :] for row in ids]
        waiting = sorted(range(len(own)), key=lambda row: (-len(own[row]), row))
        vectors: torch.Tensor | None = None
        while waiting:
            rows = self._next_batch(waiting, own)
            try:
                batch = self.finish(self.run([own[row] for row in rows], shared, pooled))
            except torch.OutOfMemoryError:
                if len(rows) == 1 or self.shapes is not None:
                    raise
                self._halve_budget(len(rows) * len(own[rows[0]]), at_least=len(own[rows[0]]))
                continue
            if vectors is None:
                vectors = batch.new_empty((len(texts), batch.shape[1]))
            # a text without a token is no text: its padding must not speak for it
            batch[[place for place, row in enumerate(rows) if not own[row]]] = 0
            vectors[torch.tensor(rows, device=batch.device)] = batch
            waiting = waiting[len(rows) :]
            self.advance(len(rows), sum(len(ids[row]) for row in rows))
        assert vectors is not None  # noqa: S101 - a window has a text
        return vectors

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        encoded = self.tokenizer(
            texts,
            truncation=self.limit is not None,
            max_length=self.limit,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _run_prefix(self, ids: list[list[int]]) -> prefix.Prefix | None:
        possible = len(ids) > 1 and self.shapes is None
        if not possible or max(map(len, ids)) > self.shortcuts.reusable_tokens:
            return None
        shared = prefix.shared_tokens(ids)
        if shared < prefix.SHORTEST:
            return None
        return prefix.Prefix(self.model, ids[0][:shared], self.device)

    def _next_batch(self, waiting: Sequence[int], ids: Sequence[list[int]]) -> list[int]:
        """Cut the longest texts off where the next would exceed the budget or pad too much."""
        longest = max(1, len(ids[waiting[0]]))
        if self.shapes is not None:
            return list(waiting[: self.shapes.rows(self.shapes.tokens(longest))])
        padding = 0
        batch: list[int] = []
        for row in waiting:
            padding += longest - len(ids[row])
            over = (len(batch) + 1) * longest > self.encoder.batch_tokens
            # one length in each batch where frequencies depend on it, and where padding shows
            one_length = longest > self.steady_length or not self.shortcuts.padded
            mixed = padding > 0 and one_length
            if batch and (over or mixed or padding > self.encoder.batch_padding):
                break
            batch.append(row)
        return batch

    def _halve_budget(self, tokens: int, at_least: int) -> None:
        self.encoder.batch_tokens = max(at_least, tokens // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.warning(
            "out of memory at %d tokens in a batch; continuing with batch_tokens=%d",
            tokens,
            self.encoder.batch_tokens,
        )

    def run(
        self, ids: list[list[int]], shared: prefix.Prefix | None, pooled: PooledToken | None
    ) -> torch.Tensor:
        """Return the vectors of one batch of token lists, longest first, before `finish`."""
        rows, longest = len(ids), max(1, len(ids[0]))
        if longest >= self.steady_length:
            prefix.forget_lengths(self.model)
        if self.shapes is not None:
            longest = self.shapes.tokens(longest)
            ids = ids + [ids[-1]] * (self.shapes.rows(longest) - rows)
        pad = self.tokenizer.pad_token_id or 0
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in ids])
        padded = padded.to(self.device)
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        # a product of one row takes another kernel, whose last bit depends on where weights lie
        if pooled is not None and len(ids) > 1:
            pooled.positions = lengths - 1 if self.pooling == "lasttoken" else lengths * 0
        try:
            run = self._run_unmasked if self.shortcuts.unmasked else self._run_masked
            return run(padded, lengths, shared)[:rows]
        finally:
            if pooled is not None:
                pooled.positions = None

    def _run_masked(
        self, ids: torch.Tensor, lengths: torch.Tensor, shared: prefix.Prefix | None
    ) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        mask = (places[None] < lengths[:, None]).long()
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._after_model({"token_embeddings": hidden, "attention_mask": mask}, first=1)

    def _run_unmasked(
        self, ids: torch.Tensor, lengths: torch.Tensor, shared: prefix.Prefix | None
    ) -> torch.Tensor:
        """Run a causal model without a mask: what is padded on the right is seen by nobody."""
        extra: dict[str, Any] = {"use_cache": False}
        if shared is not None:
            extra = shared.inputs(len(ids), ids.shape[1], self.device)
        hidden = self.model(input_ids=ids, **extra).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        return self._after_model({"sentence_embedding": hidden[rows, lengths - 1]}, first=2)

    def _after_model(self, features: dict[str, Any], first: int) -> torch.Tensor:
        for module in list(self.encoder)[first:]:
            features = run_head(module, features)
        return widened(features)["sentence_embedding"]


@contextmanager
def no_mask_needed(model: Any) -> Iterator[None]:
    """Keep a model from warning of padding that stands where nobody sees it."""
    name, own = "warn_if_padding_and_no_attention_mask", vars(model)
    if name in own:  # within another such context
        yield
        return
    own[name] = lambda *given: None
    try:
        yield
    finally:
        del own[name]


def single_token_pooling(encoder: Any) -> str | None:
    """Return `lasttoken` or `cls` where one token's hidden state is the vector, else None."""
    pooling = encoder[1] if len(encoder) > 1 else None
    mode = pooling.pooling_mode if isinstance(pooling, Pooling) else None
    return mode if mode in ("lasttoken", "cls") else None


_VECTORS_ONLY = (Dense, Dropout, LayerNorm, Normalize, Pooling)
"""Modules that read nothing but what `Inference` hands them; others may read ids, or padding."""


def asks_for_vectors(encoder: Any, output_value: Any, options: Mapping[str, Any]) -> bool:
    """Say whether a call wants vectors alone, made without options for the modules.

    Args:
        encoder: Any `SentenceTransformer`.
        output_value: As of `encode`.
        options: What `encode` was given for the modules; `encode_query` gives the task.
    """
    return output_value == "sentence_embedding" and not _are_read(encoder, options)


def is_plain(encoder: Any) -> bool:
    """Say whether an encoder's modules are known to read what `Inference` hands them alone."""
    first, *others = encoder
    # a subclass may compute anything, so types are compared exactly
    return (
        type(first) is Transformer
        and all(type(module) in _VECTORS_ONLY for module in others)
        and encoder.get_backend() == "torch"
        and first.modality_config == TEXT_ONLY
        and first.module_output_name == "token_embeddings"
        and not first.can_flatten_inputs
        and not first.processing_kwargs
        and all(getattr(module, "include_prompt", True) for module in encoder)
        and _is_known(first.model.config)
    )


def limit_of_call(options: Mapping[str, Any]) -> int | None:
    """Return the tokens that a call cuts texts to, where it sets nothing else of tokenising."""
    match options.get("processing_kwargs"):
        case {"text": {"max_length": int(limit), **others}, **rest} if not others and not rest:
            return limit
    return None


def _are_read(encoder: Any, options: Mapping[str, Any]) -> bool:
    if limit_of_call(options) is not None:
        options = {name: x for name, x in options.items() if name != "processing_kwargs"}
    if set(options) - {"task"} or "task" in encoder.get_model_kwargs():
        return bool(options)
    by_task = ("query_length", "document_length", "query_expansion")
    return any(getattr(encoder[0], name, None) is not None for name in by_task)


def _is_known(config: Any) -> bool:
    try:
        find(config)
    except ValueError:
        return False
    return True


def finisher(
    *, normalize: bool, truncate_dim: int | None, to_cpu: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what the stock path does to a batch of vectors."""

    def finish(vectors: torch.Tensor) -> torch.Tensor:
        if truncate_dim is not None:
            vectors = truncate_embeddings(vectors, truncate_dim)
        if normalize:
            vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
        return vectors.cpu() if to_cpu else vectors

    return finish
