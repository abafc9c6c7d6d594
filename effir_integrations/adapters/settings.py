"""What the settings of adapters have in common: words of other classes, and an expected model."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lazy_encoder import LazyEncoder

_RENAMED = {
    "model_name": ("model",),
    "model_name_or_path": ("model",),
    "query_instruction": ("query_prompt",),
    "text_instruction": ("document_prompt",),
    "embed_instruction": ("document_prompt",),
    "prefix": ("query_prompt", "document_prompt"),
    "max_seq_length": ("max_length",),
    "batch_size": ("embed_batch_size",),
}
"""Names of other classes -> those of them that an adapter has."""
_NORMALISED = "vectors are normalised where the model's similarity is cosine"
_HINTS = {
    "batch_size": "the encoder cuts its own batches, by tokens",
    "encode_batch_size": "the encoder cuts its own batches, by tokens",
    "pooling": "the model's folder says how it pools",
    "normalize": _NORMALISED,
    "normalize_embeddings": _NORMALISED,
    "model": "use from_model",
    "model_kwargs": "give device, precision, revision and trust_remote_code by themselves",
    "encode_kwargs": f"prompts are query_prompt and document_prompt, and {_NORMALISED}",
    "query_encode_kwargs": f"prompts are query_prompt and document_prompt, and {_NORMALISED}",
    "cache_folder": "set the environment variable HF_HOME",
}


class Hinted:
    """A class that answers keyword arguments of other classes with the word that it has itself."""

    def __new__(cls, *given: Any, **settings: Any) -> Any:
        """Refuse unknown settings before Python does, which knows no hints."""
        refuse_unknown(cls.__name__, list(inspect.signature(cls.__init__).parameters)[1:], settings)
        return super().__new__(cls)


def refuse_unknown(kind: str, known: Collection[str], given: Iterable[str]) -> None:
    """Refuse settings that a class does not have, with the one to use for those of other classes.

    Raises:
        TypeError: One of the names given is not known.
    """
    for name in given:
        if name in known:
            continue
        own = [other for other in _RENAMED.get(name, ()) if other in known]
        hint = f"use {' or '.join(own)}" if own else _HINTS.get(name)
        choice = f"choose from {', '.join(sorted(known))}"
        raise TypeError(f"{kind} has no {name!r}; {hint or choice}")


def check_expected(encoder: LazyEncoder, fingerprint: str | None, *, searches: bool = True) -> None:
    """Refuse another model than the one that settings were made for, or a store was filled by.

    An encoder of queries whose space is that of the expected model is taken, and is then refused
    documents, which would be of its own.

    Args:
        encoder: As it is now.
        fingerprint: What is expected; None takes any.
        searches: Whether it embeds queries.

    Raises:
        ValueError: The model has another fingerprint.
    """
    if fingerprint in (None, encoder.fingerprint, encoder.documents.files):
        return
    if searches and fingerprint in encoder.searches:
        encoder.only_queries = True
    else:
        raise ValueError(
            f"the model of {encoder.name} is now {encoder.fingerprint}, but these settings are of "
            f"{fingerprint}, whose vectors do not fit; re-index with {encoder.name} and settings "
            "without this fingerprint, or bring the former model back, or a query encoder that "
            "effir pair made for it"
        )
