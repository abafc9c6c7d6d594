"""The two classes that Pyserini encodes with: they have its call signatures and none of its code.

Deriving from Pyserini's own classes would start a JVM on import; it never asks what they are.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.inputs import listed
from ..lazy_encoder import LazyEncoder
from .record import check_same_model

logger = logging.getLogger(__name__)

PRECISION_VARIABLE = "EFFIR_PRECISION"
_OWN_PRECISION = "checkpoint"


def open_encoder(
    model: str | LazyEncoder,
    *,
    device: str | None = None,
    fp16: bool = False,
    max_length: int | None = None,
) -> LazyEncoder:
    """Return the encoder of a model, which is not loaded yet.

    Args:
        model: Folder or hub name; an encoder is handed back as it is.
        device: As in torch; None takes an accelerator, and cuda without one is the CPU, as it is
            with Pyserini.
        fp16: Compute in bf16, whatever the environment variable `EFFIR_PRECISION` says: a
            precision of `load`, or "checkpoint" for the dtype of the weights. Default: auto.
        max_length: Tokens a text is cut to; None takes the model's own limit.
    """
    if isinstance(model, LazyEncoder):
        return model
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        device = "cpu"
    precision: str | None = os.environ.get(PRECISION_VARIABLE) or "auto"
    if fp16:
        precision = "bf16"
    elif precision == _OWN_PRECISION:
        precision = None
    return LazyEncoder(model, device=device, precision=precision, max_length=max_length)


def document_text(title: str | None, text: str | None) -> str:
    """Join title and text by a space; Pyserini has None for one that is empty."""
    return f"{title or ''} {text or ''}".strip()


class EffirDocumentEncoder:
    """Encodes documents for `pyserini.encode`.

    Prompt, pooling, normalisation and the longest text are those of the model folder. Batches are
    cut inside, so many texts should come at once.

    Args:
        model_name: Folder or hub name, or a `LazyEncoder`.
        device: As in torch; None takes an accelerator where there is one.
        show_progress: Draw a bar for each call.
        ignored: Options of other classes, which Pyserini hands over where a path looks like
            theirs; a warning says that they have no effect.

    Raises:
        FileNotFoundError: There is no such model folder, or a weight file is missing.
    """

    def __init__(
        self,
        model_name: str | LazyEncoder,
        device: str | None = None,
        show_progress: bool = False,
        **ignored: Any,
    ) -> None:
        _warn_of(ignored)
        self._source, self._device = model_name, device
        self.lazy = open_encoder(model_name, device=device)
        self._half = False
        self.show_progress = show_progress

    def encode(
        self,
        texts: Sequence[str | None] | str,
        titles: Sequence[str | None] | str | None = None,
        fp16: bool = False,
        max_length: int | None = None,
        add_sep: bool = False,
        **other_fields: Any,
    ) -> np.ndarray:
        """Return the vectors of documents, (documents, dimension) float32.

        Args:
            texts: The field `text`; None is the empty text.
            titles: The field `title`, joined to the text by a space.
            fp16: Compute in bf16.
            max_length: Tokens a document is cut to, at most the model's own limit.
            add_sep: Without effect: title and text are joined as the model was evaluated.
            other_fields: None may be there.

        Raises:
            ValueError: There are other fields, or not as many titles as texts.
        """
        if other_fields:
            raise ValueError(
                f"effir encodes the fields title and text, and was given {sorted(other_fields)}; "
                "leave other fields out of --fields, or put them into text"
            )
        if fp16 and not self._half and isinstance(self._source, str):
            self.lazy = open_encoder(self._source, device=self._device, fp16=True)
            self._half = True
        bodies = [texts] if isinstance(texts, str) else listed(texts)
        heads = [titles] if isinstance(titles, str) else list(titles or [None] * len(bodies))
        if len(heads) != len(bodies):
            raise ValueError(f"there are {len(heads)} titles for {len(bodies)} texts; give as many")
        documents = [document_text(*pair) for pair in zip(heads, bodies, strict=True)]
        return self.lazy.embed(
            documents, "document", max_length=max_length, show_progress=self.show_progress
        )


class EffirQueryEncoder:
    """Encodes queries for Pyserini's searchers: `FaissSearcher(index, EffirQueryEncoder(model))`.

    Args:
        encoder_dir: Folder or hub name, or a `LazyEncoder`.
        tokenizer_name: Must be None or the same: the model folder brings its tokenizer.
        device: As in torch; None takes an accelerator where there is one.
        prefix: Put in front of queries instead of the model's own prompt, followed by a space;
            empty for none.
        fp16: Compute in bf16.
        max_length: Tokens a query is cut to; None takes the model's own limit.
        allow_other_model: Search indexes of other models as well: of those that this one was
            trained to give the vectors of.
        ignored: As of `EffirDocumentEncoder`.

    Raises:
        FileNotFoundError: There is no such model folder, or a weight file is missing.
        ValueError: Another tokenizer is asked for.
    """

    has_model = True
    has_encoded_query = False
    has_encoded_queries = False

    def __init__(
        self,
        encoder_dir: str | LazyEncoder,
        tokenizer_name: str | None = None,
        device: str | None = None,
        prefix: str | None = None,
        fp16: bool = False,
        max_length: int | None = None,
        allow_other_model: bool = False,
        **ignored: Any,
    ) -> None:
        if tokenizer_name not in (None, encoder_dir):
            raise ValueError(
                f"tokenizer {tokenizer_name!r} cannot be used: the model folder {encoder_dir} "
                "brings its own; leave --tokenizer out"
            )
        _warn_of(ignored)
        self.lazy = open_encoder(encoder_dir, device=device, fp16=fp16)
        self.max_length = max_length
        # a prefix that ends in white space says how it is to be joined
        self.prompt = f"{prefix} " if prefix and not prefix[-1].isspace() else prefix
        self.allow_other_model = allow_other_model
        # not before, as importing it starts the JVM
        if "pyserini.encode" in sys.modules:
            guard_searchers()

    def check_index(self, folder: Path) -> None:
        """Refuse an index whose `effir.json` names another model.

        Raises:
            ValueError: It does, and `allow_other_model` was not given.
        """
        allowed = self.allow_other_model
        check_same_model(folder, self.lazy.searches, self.lazy.name, allowed=allowed)

    def encode(
        self,
        query: str | None = None,
        qid: object = None,
        max_length: int | None = None,
        **other_keys: Any,
    ) -> np.ndarray:
        """Return the vector of one query, (dimension,) float32.

        Args:
            query: Its text.
            qid: Its id, which Pyserini hands over with some formats of topics.
            max_length: Tokens it is cut to in this call.
            other_keys: None may be there.

        Raises:
            ValueError: There is no text.
        """
        if not isinstance(query, str) or other_keys:
            raise ValueError(
                f"query {qid or ''} has no text that can be encoded (text: {query!r}, other keys: "
                f"{sorted(other_keys)}); give topics with a title each"
            )
        return self._embed([query], max_length)[0]

    def encode_batch(self, queries: Sequence[str | Mapping[str, Any]], **_: Any) -> np.ndarray:
        """Return the vectors of queries, texts or dicts with `query`, (queries, dimension)."""
        queries = listed(queries)
        texts = [
            query if isinstance(query, str) else (query or {}).get("query") for query in queries
        ]
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(
                    f"query {place} of {len(texts)} is {queries[place]!r:.60}, which holds no "
                    "text; give topics with a title each"
                )
        return self._embed([text for text in texts if isinstance(text, str)], None)

    def _embed(self, texts: Sequence[str], max_length: int | None) -> np.ndarray:
        length = self.max_length if max_length is None else max_length
        return self.lazy.embed(texts, "query", prompt=self.prompt, max_length=length)


def guard_searchers() -> None:
    """Let Pyserini's `FaissSearcher` ask an encoder of ours about the index; twice is once.

    Pyserini has no hook for it: a searcher hands its encoder queries, and never the index.
    """
    searcher: Any = importlib.import_module("pyserini.search.faiss").FaissSearcher
    stock = searcher.__init__
    if hasattr(stock, "__wrapped__"):
        return

    @wraps(stock)
    def checked(self: Any, index_dir: Any, query_encoder: Any, *args: Any, **kwargs: Any) -> None:
        # one that cuts vectors by principal components has ours inside
        encoder = getattr(query_encoder, "encoder", query_encoder)
        if isinstance(encoder, EffirQueryEncoder):
            encoder.check_index(Path(index_dir))
        stock(self, index_dir, query_encoder, *args, **kwargs)

    searcher.__init__ = checked


def _warn_of(ignored: Mapping[str, Any]) -> None:
    given = {name: value for name, value in ignored.items() if value not in (None, False)}
    if given:
        logger.warning(
            "%s: without effect, the model folder decides about pooling, normalisation and prompts",
            ", ".join(f"{name}={value!r}" for name, value in given.items()),
        )
