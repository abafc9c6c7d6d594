"""What a LlamaIndex embedding is told, checks, saves and takes along to other processes."""

from __future__ import annotations

import copy
from abc import ABC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from pydantic import computed_field
from typing_extensions import Self

from ..lazy_encoder import LazyEncoder
from ..settings import check_expected, refuse_unknown
from ..store import FillsStore, SearchesStore
from .cache import ScopedCache

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ...encoder.search_vectors import Role

_LOADING = ("precision", "revision", "device", "trust_remote_code")
_CUTTING = ("max_length", "truncate_dim")
_LOADED = "loaded "
"""What the fingerprint of a model begins with that no name brings back."""


class EmbeddingSettings(SearchesStore, FillsStore, BaseEmbedding, ABC):
    """The settings of an embedding, and the encoder they stand for.

    Those that decide about vectors cannot be changed afterwards: stored vectors would not fit.
    """

    model_name: str = Field(frozen=True, description="Folder, or name on the hub.")
    embed_batch_size: int = Field(
        default=2048,
        gt=0,
        le=2048,
        description="Texts that the encoder is given together; it cuts batches by tokens itself.",
    )
    max_length: int | None = Field(
        default=None,
        frozen=True,
        description="Tokens a text is cut to, at most the model's own limit; None takes that.",
    )
    truncate_dim: int | None = Field(
        default=None, frozen=True, description="Leading dimensions that are kept; None keeps all."
    )
    query_prompt: str | None = Field(
        default=None, frozen=True, description="None takes the model's own; empty is none."
    )
    document_prompt: str | None = Field(
        default=None, frozen=True, description="None takes the model's own; empty is none."
    )
    precision: str | None = Field(
        default="auto",
        frozen=True,
        description="As of `load`; auto is bf16 where the hardware computes in it, else fp32, and "
        "None the dtype of the checkpoint.",
    )
    revision: str | None = Field(
        default=None, frozen=True, description="Branch, tag or commit on the hub."
    )
    device: str | None = Field(
        default=None,
        frozen=True,
        exclude=True,
        description="As in torch; None takes an accelerator where there is one.",
    )
    trust_remote_code: bool = Field(
        default=False,
        frozen=True,
        # settings that are read from a file must not decide that code is run
        exclude=True,
        description="Run modelling code that lies in the folder.",
    )
    embeddings_cache: Any = Field(
        default=None,
        frozen=True,
        exclude=True,
        description="A key-value store of LlamaIndex; other models, settings and roles that use "
        "it as well have entries of their own.",
    )

    _encoder: LazyEncoder = PrivateAttr()
    _fingerprint: str = PrivateAttr()

    def __init__(
        self, model_name: str | Path, *, fingerprint: str | None = None, **settings: Any
    ) -> None:
        if not isinstance(model_name, str | Path):
            raise TypeError(
                f"model_name is a {type(model_name).__name__}; give a folder or a hub name, or a "
                f"loaded model to {type(self).__name__}.from_model"
            )
        self._refuse_unknown(settings)
        if fingerprint is not None and fingerprint.startswith(_LOADED):
            raise ValueError(
                f"these settings are of {model_name} as it was given to from_model, and no name "
                f"brings it back; give the loaded model to {type(self).__name__}.from_model again"
            )
        super().__init__(model_name=str(model_name), **settings)
        names = (*_LOADING, *_CUTTING)
        encoder = LazyEncoder(self.model_name, **{name: getattr(self, name) for name in names})
        check_expected(encoder, fingerprint)
        self._hold(encoder, encoder.fingerprint)

    @classmethod
    def from_model(cls, model: SentenceTransformer, **settings: Any) -> Self:
        """Return the embedding of a model that is loaded already.

        Args:
            model: Any `SentenceTransformer`; its prompts and limit are not to be changed later.
            settings: As of the class, but for those that say how a model is loaded.

        Raises:
            TypeError: A keyword argument is unknown.
            ValueError: A setting is for a model given by name.
        """
        cls._refuse_unknown(settings)
        if given := [name for name in _LOADING if name in settings]:
            raise ValueError(
                f"{', '.join(given)}: only for a model given by name; this one is loaded already"
            )
        cuts = {name: settings[name] for name in _CUTTING if name in settings}
        encoder = LazyEncoder(model, precision=None, **cuts)
        embedding = cls.__new__(cls)
        settings = {"model_name": encoder.name, "precision": None, **settings}
        # the base class's own: that of this class would look for a folder
        BaseEmbedding.__init__(embedding, **settings)
        prompts = {"query": embedding.query_prompt, "document": embedding.document_prompt}
        embedding._hold(encoder, _LOADED + encoder.vectors_identity(**prompts))
        return embedding

    @classmethod
    def _refuse_unknown(cls, settings: dict[str, Any]) -> None:
        refuse_unknown(cls.__name__, {*cls.model_fields, "fingerprint"}, settings)

    def _hold(self, encoder: LazyEncoder, fingerprint: str) -> None:
        self._encoder, self._fingerprint = encoder, fingerprint
        scopes: dict[Role, str] = {
            "query": encoder.vectors_identity(query=self.query_prompt),
            "document": encoder.vectors_identity(document=self.document_prompt),
        }
        if (store := self.embeddings_cache) is not None:
            store = store.store if isinstance(store, ScopedCache) else store
            # past the field, which is frozen
            self.__dict__["embeddings_cache"] = ScopedCache(store, scopes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fingerprint(self) -> str:
        """Which model it is: a hash of its files or weights, or its name and commit on the hub."""
        return self._fingerprint

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Share the weights, which nothing here changes."""
        return copy.copy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache, the callbacks and the weights of a model given by name behind."""
        stay = ("callback_manager", "embeddings_cache", "rate_limiter")
        settings = {name: value for name, value in self.__dict__.items() if name not in stay}
        return {"settings": settings, "encoder": self._encoder, "fingerprint": self._fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the settings and the encoder up again."""
        super().__init__(**state["settings"])
        self._hold(state["encoder"], state["fingerprint"])
