"""An encoder as LangChain embeddings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.inputs import listed
from ..extras import import_extra
from .lazy_encoder import LazyEncoder
from .settings import Hinted, check_expected
from .store import FillsStore, SearchesStore

import_extra("langchain_core", "langchain")

from langchain_core.embeddings import Embeddings  # noqa: E402 - the line above names the extra

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class EffirEmbeddings(Hinted, SearchesStore, FillsStore, Embeddings):
    """LangChain embeddings of any encoder, compressed or not.

    Queries and documents get the prompts of the model, and texts stay as they are, line breaks
    included. Vectors are of unit length unless the model's similarity is the inner product. The
    model is loaded when the first text comes; a pickle holds its name and the settings.

    Example:
        ```python
        from langchain_core.vectorstores import InMemoryVectorStore

        store = InMemoryVectorStore(EffirEmbeddings("effir-mini"))
        store.add_texts(["A moss is a small plant.", "Ships float."])
        store.similarity_search("Do plants swim?", k=1)
        ```

    Args:
        model: Folder, hub name, or a `SentenceTransformer` that is loaded already.
        device: As in torch; None takes an accelerator where there is one.
        precision: As of `load`; auto is bf16 where the hardware computes in it, else fp32, and
            None the dtype of the checkpoint.
        max_length: Tokens a text is cut to, at most the model's own limit; None takes that.
        truncate_dim: Leading dimensions of the vectors that are kept; None keeps all.
        query_prompt: Put in front of queries instead of the model's own; empty for none.
        document_prompt: Put in front of documents instead of the model's own; empty for none.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.
        show_progress: Draw a progress bar while documents are embedded.
        fingerprint: Which model filled the store, as of the property: any is refused that neither
            is it nor is of its space. One of its space embeds queries alone.

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
        device: str | None = None,
        precision: str | None = "auto",
        max_length: int | None = None,
        truncate_dim: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        show_progress: bool = False,
        fingerprint: str | None = None,
    ) -> None:
        self._encoder = LazyEncoder(
            model,
            device=device,
            precision=precision,
            max_length=max_length,
            truncate_dim=truncate_dim,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        check_expected(self._encoder, fingerprint)
        self.query_prompt, self.document_prompt = query_prompt, document_prompt
        self.show_progress = show_progress

    @property
    def model(self) -> str:
        """Folder or hub name of the model."""
        return self._encoder.name

    @property
    def fingerprint(self) -> str:
        """Which model it is: a hash of its files or weights, or its name and commit on the hub."""
        return self._encoder.fingerprint

    @property
    def namespace(self) -> str:
        """A name for a cache of vectors that no other model, prompt or setting has.

        Letters, digits and hyphens, which the keys of any store may hold. Queries need a store of
        their own: caches know a vector by namespace and text, and not by its role.
        """
        identity = self._encoder.vectors_identity(
            query=self.query_prompt, document=self.document_prompt
        )
        return f"effir-{identity[:32]}-"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents with the document prompt, in their order.

        Raises:
            ValueError: A text is no string, or texts come in no order or can be read only once.
        """
        texts, prompt = listed(texts), self.document_prompt
        self._encoder.warn_of_cuts(texts, prompt=prompt)
        vectors = self._encoder.embed(
            texts, "document", prompt=prompt, show_progress=self.show_progress
        )
        # one by one, so that the thread of an event loop gets its turn in between
        return [vector.tolist() for vector in vectors]

    def embed_query(self, text: str) -> list[float]:
        """Embed one query with the query prompt."""
        return self._encoder.embed([text], "query", prompt=self.query_prompt)[0].tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents on a thread of its own, one call after the other."""
        return await self._encoder.arun(partial(self.embed_documents, texts))

    async def aembed_query(self, text: str) -> list[float]:
        """Embed one query on a thread of its own, one call after the other."""
        return await self._encoder.arun(partial(self.embed_query, text))
