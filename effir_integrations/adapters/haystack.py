"""An encoder as Haystack components: one embeds queries, one embeds documents."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..encoder.space import check_space
from ..extras import import_extra
from .lazy_encoder import LazyEncoder
from .settings import Hinted, check_expected
from .store import FillsStore, SearchesStore

import_extra("haystack", "haystack")

from haystack import (  # noqa: E402 - the line above names the extra
    Document,
    component,
    default_from_dict,
    default_to_dict,
)

if TYPE_CHECKING:
    from haystack.utils import ComponentDevice
    from sentence_transformers import SentenceTransformer


class _Embedder(Hinted, SearchesStore):
    """What both components share: the encoder, its life, and its settings as plain values."""

    _encoder: LazyEncoder
    _settings: dict[str, Any]

    def _set(
        self,
        model: Any,
        own: dict[str, Any],
        *,
        device: Any,
        fingerprint: str | None,
        **options: Any,
    ) -> None:
        """Make the encoder; `own` are the settings that only the component knows."""
        if device is not None and not isinstance(device, str):
            device = device.to_torch_str()
        self._encoder = LazyEncoder(model, device=device, **options)
        searches = isinstance(self, EffirTextEmbedder)
        check_expected(self._encoder, fingerprint, searches=searches)
        name = str(model) if isinstance(model, str | Path) else None
        self._settings = {"model": name, "device": device, **options, **own}

    def warm_up(self) -> None:
        """Load the model, if it is not loaded yet."""
        self._encoder.embed([], "document")

    async def warm_up_async(self) -> None:
        """Load the model without blocking the event loop."""
        await self._encoder.arun(self.warm_up)

    def close(self) -> None:
        """Free the weights; the next run loads them again. A model given loaded stays."""
        if self._settings["model"] is not None:
            self._encoder.unload()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, from which `from_dict` makes an equal component of the same model.

        Raises:
            ValueError: The model was given loaded, and has no name to be found by.
        """
        if self._settings["model"] is None:
            raise ValueError(
                f"{type(self).__name__} was given {self._encoder.name} as a loaded model, which a "
                "pipeline file cannot hold; save the model and give its folder"
            )
        return default_to_dict(self, **self._settings, fingerprint=self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """Which model it is: a hash of its files or weights, or its name and commit on the hub."""
        return self._encoder.fingerprint

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Make a component of what `to_dict` returned; the model is loaded later.

        Raises:
            ValueError: Other files lie where the model lay.
        """
        return default_from_dict(cls, data)


@component
class EffirTextEmbedder(_Embedder):
    """Embed a query with the query prompt of the model, in a Haystack pipeline.

    Args:
        model: Folder, hub name, or a `SentenceTransformer` that is loaded already.
        device: As in torch, or of Haystack; None takes an accelerator where there is one.
        precision: As of `load`; auto is bf16 where the hardware computes in it, else fp32, and
            None the dtype of the checkpoint.
        max_length: Tokens a text is cut to, at most the model's own limit; None takes that.
        truncate_dim: Leading dimensions of the vectors that are kept; None keeps all.
        query_prompt: Put in front instead of the model's own; empty for none.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.
        fingerprint: Which model filled the store, as of the property: any is refused that neither
            is it nor is of its space.

    Raises:
        FileNotFoundError: There is no such model folder, or a weight file is missing.
        TypeError: A keyword argument is unknown.
        ValueError: A setting is out of range, or is given for a model that is loaded already, or
            the model has another fingerprint.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        device: str | ComponentDevice | None = None,
        precision: str | None = "auto",
        max_length: int | None = None,
        truncate_dim: int | None = None,
        query_prompt: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        fingerprint: str | None = None,
    ) -> None:
        self.query_prompt = query_prompt
        self._set(
            model,
            {"query_prompt": query_prompt},
            device=device,
            precision=precision,
            max_length=max_length,
            truncate_dim=truncate_dim,
            revision=revision,
            trust_remote_code=trust_remote_code,
            fingerprint=fingerprint,
        )

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Embed one query.

        Returns:
            `embedding`: its vector, of unit length unless the similarity is the inner product.

        Raises:
            ValueError: The text is no string.
        """
        vectors = self._encoder.embed([text], "query", prompt=self.query_prompt)
        return {"embedding": vectors[0].tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Do as `run` on a thread of its own, one call after the other."""
        return await self._encoder.arun(partial(self.run, text))


@component
class EffirDocumentEmbedder(_Embedder, FillsStore):
    """Embed documents with the document prompt of the model, in a Haystack pipeline.

    What is embedded is the values of `meta_fields_to_embed` that a document has, then its content,
    joined by `embedding_separator`.

    Args:
        model: Folder, hub name, or a `SentenceTransformer` that is loaded already.
        device: As in torch, or of Haystack; None takes an accelerator where there is one.
        precision: As of `load`; auto is bf16 where the hardware computes in it, else fp32, and
            None the dtype of the checkpoint.
        max_length: Tokens a text is cut to, at most the model's own limit; None takes that.
        truncate_dim: Leading dimensions of the vectors that are kept; None keeps all.
        document_prompt: Put in front instead of the model's own; empty for none.
        meta_fields_to_embed: Names of meta values to put before the content, such as a title.
        embedding_separator: Put between meta values and content.
        progress_bar: Draw a progress bar, if embedding lasts more than two seconds.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.
        fingerprint: Which model is expected, as of the property: any is refused that gives
            documents other vectors.

    Raises:
        FileNotFoundError: There is no such model folder, or a weight file is missing.
        TypeError: A keyword argument is unknown.
        ValueError: A setting is out of range, or is given for a model that is loaded already, or
            the model has another fingerprint.
    """

    def __init__(
        self,
        model: str | Path | SentenceTransformer,
        *,
        device: str | ComponentDevice | None = None,
        precision: str | None = "auto",
        max_length: int | None = None,
        truncate_dim: int | None = None,
        document_prompt: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        progress_bar: bool = True,
        revision: str | None = None,
        trust_remote_code: bool = False,
        fingerprint: str | None = None,
    ) -> None:
        self.document_prompt = document_prompt
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator, self.progress_bar = embedding_separator, progress_bar
        own = ("document_prompt", "meta_fields_to_embed", "embedding_separator", "progress_bar")
        self._set(
            model,
            {name: getattr(self, name) for name in own},
            device=device,
            precision=precision,
            max_length=max_length,
            truncate_dim=truncate_dim,
            revision=revision,
            trust_remote_code=trust_remote_code,
            fingerprint=fingerprint,
        )

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents, of which copies are returned.

        Returns:
            `documents`: copies that hold their vectors, in the order of the documents.

        Raises:
            TypeError: It is no list of documents.
            ValueError: A document has neither content nor one of the meta values.
        """
        texts, prompt = self._texts(documents), self.document_prompt
        self._encoder.warn_of_cuts(texts, prompt=prompt)
        vectors = self._encoder.embed(
            texts, "document", prompt=prompt, show_progress=self.progress_bar
        )
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=x.tolist()) for document, x in pairs]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Do as `run` on a thread of its own, one call after the other."""
        return await self._encoder.arun(partial(self.run, documents))

    def check_documents(self, documents: list[Document], *, queries_only: bool = False) -> float:
        """Refuse documents of a store whose vectors are not those that this component gives.

        Args:
            documents: Some of the store's, such as 20, with their vectors.
            queries_only: As of `check_space`.

        Returns:
            The smallest cosine of a vector and the one that its document gets now.

        Raises:
            TypeError: It is no list of documents.
            ValueError: There are none, one has no vector, or one has that of another model.
        """
        texts = self._texts(documents)
        vectors = [[] if x.embedding is None else x.embedding for x in documents]
        embed = partial(self._encoder.embed, kind="document", prompt=self.document_prompt)
        return check_space(embed, vectors, texts, queries_only=queries_only)

    def _texts(self, documents: list[Document]) -> list[str]:
        if not isinstance(documents, list) or any(not isinstance(d, Document) for d in documents):
            raise TypeError(
                f"EffirDocumentEmbedder takes a list of haystack Documents, not {documents!r:.60}; "
                "EffirTextEmbedder embeds a string"
            )
        return [self._text(document) for document in documents]

    def _text(self, document: Document) -> str:
        meta = [document.meta.get(field) for field in self.meta_fields_to_embed]
        parts = [str(value) for value in meta if value is not None and value != ""]
        parts += [document.content] if document.content is not None else []
        if not parts:
            # the vector of no text would be near to other texts all the same
            raise ValueError(
                f"document {document.id} has no content and none of the meta values "
                f"{self.meta_fields_to_embed}, so there is nothing to embed; leave it out"
            )
        return self.embedding_separator.join(parts)
