"""Index and evaluate a BEIR corpus through LangChain, and ask it a question.

The documents go into a LangChain vector store that searches exactly (FAISS); its vectors are kept
for the next run. Without arguments: effir-mini on docstrings of Python's library.

    python recipes/rag_langchain.py --model MODEL --data beir/scifact --question "..."

A question is put to a retrieval-augmented chain: three passages are found, the prompt is built from
them, and a stand-in answers with that prompt. Put a chat model of yours in its place.

Needs: pip install "effir-integrations[langchain,eval]"
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import DEPTH, Recipe, recipe_parser, run_recipe
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import VectorStore

from effir_integrations.adapters.langchain import EffirEmbeddings
from effir_integrations.cli import console
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.progress import progress_bar

WINDOW = 2048
"""Documents embedded together: LangChain passes vectors as lists, eight times an array's size."""
INDEX = "documents.faiss"
PROMPT = """Answer the question from the passages alone, and name those that you used.

{passages}

Question: {question}
Answer:"""


class FlatStore(VectorStore):
    """Exact search by inner products, which are the model's similarity, in a flat FAISS index.

    The store of langchain-core searches exactly as well, but by cosine alone, from Python lists
    and into JSON: it is for small corpora.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        index: faiss.Index | None = None,
        documents: Sequence[Document] = (),
    ) -> None:
        self._embeddings, self.index, self.documents = embeddings, index, list(documents)

    @property
    def embeddings(self) -> Embeddings:
        """What embeds queries and documents."""
        return self._embeddings

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Embed documents and put them behind those that are there."""
        texts = [document.page_content for document in documents]
        vectors = np.asarray(self._embeddings.embed_documents(texts), dtype=np.float32)
        if self.index is None:
            self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(vectors)
        self.documents += documents
        return [document.id or "" for document in documents]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the `k` best documents with their similarity, the best first."""
        if self.index is None:
            return []
        vector = np.asarray([self._embeddings.embed_query(query)], dtype=np.float32)
        (scores,), (rows,) = self.index.search(vector, min(k, len(self.documents)))
        return [(self.documents[row], float(x)) for row, x in zip(rows, scores, strict=True)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the `k` best documents, the best first."""
        return [document for document, _ in self.similarity_search_with_score(query, k)]

    def save(self, folder: Path) -> None:
        """Write the vectors into `folder`; the documents are wherever they came from."""
        if self.index is None:
            raise ValueError(f"there are no vectors to write to {folder}; add documents first")
        faiss.write_index(self.index, str(folder / INDEX))

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> FlatStore:
        """Make a store of texts."""
        store = cls(embedding)
        store.add_texts(texts, metadatas, ids=ids)
        return store


def index_and_search(recipe: Recipe) -> list[Evaluation]:
    """Embed the documents once, search all queries, and score the run."""
    embeddings = EffirEmbeddings(
        recipe.encoder.encoder,
        max_length=recipe.options.max_length,
        show_progress=recipe.show_progress,
    )
    texts = recipe.data.documents
    documents = [Document(id=name, page_content=text) for name, text in texts.items()]
    stage = recipe.stage(
        "index", lambda folder: build_index(embeddings, documents, folder, recipe.show_progress)
    )
    store = FlatStore(embeddings, faiss.read_index(str(stage.folder / INDEX)), documents)

    def find(query: str) -> dict[str, float]:
        found = store.similarity_search_with_score(query, k=DEPTH + 1)
        return {document.id or "": score for document, score in found}

    run, latency = recipe.search_each(find)
    if question := recipe.options.question:
        console.stdout().print(chain(store).invoke(question), markup=False, soft_wrap=True)
    return [
        recipe.evaluation(
            "LangChain, FAISS flat",
            run,
            documents_per_second=recipe.rate(stage),
            query_latency_ms=latency,
        )
    ]


def build_index(
    embeddings: Embeddings, documents: Sequence[Document], folder: Path, show_progress: bool
) -> None:
    """Write the vectors of all documents into `folder`."""
    store = FlatStore(embeddings)
    starts = progress_bar(
        range(0, len(documents), WINDOW),
        desc=f"Embedding, {WINDOW:,} documents each",
        shown=show_progress,
    )
    for start in starts:
        store.add_documents(list(documents[start : start + WINDOW]))
    store.save(folder)


def chain(store: VectorStore) -> Runnable[str, str]:
    """Return a chain from a question to an answer; the stand-in answers with its prompt."""
    passages = store.as_retriever(search_kwargs={"k": 3}) | RunnableLambda(numbered)
    prompt = PromptTemplate.from_template(PROMPT)
    language_model = RunnableLambda(lambda prompted: prompted.to_string())
    return (
        {"passages": passages, "question": RunnablePassthrough()}
        | prompt
        | language_model
        | StrOutputParser()
    )


def numbered(documents: Sequence[Document]) -> str:
    """Put passages under each other, each with its number and id."""
    return "\n\n".join(
        f"[{number}] {document.id}: {document.page_content}"
        for number, document in enumerate(documents, 1)
    )


def command_line() -> ArgumentParser:
    """Return a parser of this recipe's options."""
    parser = recipe_parser(__doc__ or "")
    parser.add_argument("--question", help="print the prompt of a chain that answers it")
    return parser


if __name__ == "__main__":
    run_recipe(index_and_search, "langchain", command_line())
