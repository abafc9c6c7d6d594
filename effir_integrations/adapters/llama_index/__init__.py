"""An encoder as a LlamaIndex embedding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...extras import import_extra

import_extra("llama_index.core", "llama-index")

# the line above names the extra, before any of these needs it
from ...data.inputs import listed  # noqa: E402
from ...progress import overall_progress  # noqa: E402
from .cache import cached_as  # noqa: E402
from .indexing import check_vector_store, splitter  # noqa: E402
from .settings import EmbeddingSettings  # noqa: E402

if TYPE_CHECKING:
    from llama_index.core.node_parser import SentenceSplitter

    from ...encoder.search_vectors import Role


class EffirEmbedding(EmbeddingSettings):
    """A LlamaIndex embedding of any encoder, compressed or not.

    Queries and nodes get the prompts of the model. Vectors are of unit length unless the model's
    similarity is the inner product. The model is loaded when the first text comes, and texts of
    all threads and event loops go through it one call after the other.

    Example:
        ```python
        from llama_index.core import Document, VectorStoreIndex

        embedding = EffirEmbedding("effir-mini")
        index = VectorStoreIndex.from_documents(
            [Document(text="A moss is a small plant."), Document(text="Ships float.")],
            embed_model=embedding,
            transformations=[embedding.splitter()],
        )
        index.as_retriever(similarity_top_k=1).retrieve("Do plants swim?")
        ```

    Args:
        model_name: Folder, or name on the hub.
        fingerprint: Which model filled the store, as of the property: any is refused that neither
            is it nor is of its space. One of its space embeds queries alone.
        settings: The other fields, and `num_workers`, `callback_manager` and `rate_limiter`.

    Raises:
        FileNotFoundError: There is no such model folder, or a weight file is missing.
        TypeError: A keyword argument is unknown, or the cache is no key-value store.
        ValueError: A setting is out of range, or the model has another fingerprint.
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores these settings."""
        return "EffirEmbedding"

    @property
    def dimension(self) -> int:
        """The length of the vectors."""
        return self._encoder.dimension

    def unload(self) -> None:
        """Free the weights; the next text loads them again.

        Raises:
            ValueError: The model was given loaded, so nothing could bring it back.
        """
        self._encoder.unload()

    def splitter(self, **options: Any) -> SentenceSplitter:
        """Return a splitter into nodes that the model reads whole.

        Args:
            options: As of `SentenceSplitter`; `chunk_size` counts the model's tokens.

        Raises:
            ValueError: `chunk_size` exceeds what the model reads, or the model has no limit.
        """
        prompt = self._encoder.document_prompt(self.document_prompt)
        return splitter(self._encoder, prompt, **options)

    def check_vector_store(self, store: Any) -> None:
        """Refuse a store that would rank these vectors wrongly, by its metric and its dimension.

        Raises:
            ValueError: A FAISS index does not score by inner product, the store in memory scores
                by cosine and the model does not, or the dimension is another. Or it is another
                kind of store, of which `effir_integrations.check_space` can tell by samples.
        """
        check_vector_store(self._encoder, store)

    def _embed(self, texts: Sequence[str], kind: Role) -> list[list[float]]:
        prompt = self.query_prompt if kind == "query" else self.document_prompt
        if kind == "document":
            advice = "split documents with the splitter() of the embedding"
            self._encoder.warn_of_cuts(texts, prompt=prompt, advice=advice)
        vectors = self._encoder.embed(texts, kind, prompt=prompt)
        # one by one, so that the thread of an event loop gets its turn in between
        return [vector.tolist() for vector in vectors]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], "query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed([text], "document")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, "document")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._encoder.arun(partial(self._embed, [query], "query")))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._encoder.arun(partial(self._embed, [text], "document")))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._encoder.arun(partial(self._embed, texts, "document"))

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """Embed texts of documents in their order; the bar counts each batch that has run.

        Raises:
            ValueError: A text is no string, or texts come in no order or can be read only once.
        """
        texts = _several(texts)
        # the bar of LlamaIndex would count texts as they are handed over, thousands at once
        with overall_progress(len(texts), shown=show_progress):
            return super().get_text_embedding_batch(texts, **kwargs)

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """Embed texts of documents in their order, without blocking the event loop.

        Raises:
            ValueError: A text is no string, or texts come in no order or can be read only once.
        """
        return await super().aget_text_embedding_batch(_several(texts), show_progress, **kwargs)

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a query, or find it in the cache."""
        with cached_as("query"):
            return super().get_query_embedding(query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Embed a query, or find it in the cache, without blocking the event loop."""
        with cached_as("query"):
            return await super().aget_query_embedding(query)


def _several(texts: Any) -> list[str]:
    if isinstance(texts, str):
        raise ValueError(f"texts is one string ({texts!r:.60}); give a list of strings")
    several: list[str] = listed(texts)
    return several
