"""Index and evaluate a BEIR corpus through LlamaIndex, and ask it a question.

Each document becomes one node, which keeps the document's id. The nodes go into a VectorStoreIndex
on a flat FAISS index, which is written to disk, loaded again, and searched by a retriever. Without
arguments: effir-mini on docstrings of Python's library.

    python recipes/beir_llama_index.py --model MODEL --data beir/scifact --question "..."

A question is put to a query engine: it finds three nodes, builds the prompt from them, and a
stand-in answers with that prompt. Put a language model of yours in its place.

Needs: pip install "effir-integrations[llama-index,eval]"
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import faiss
from common import DEPTH, Recipe, recipe_parser, run_recipe
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from llama_index.vector_stores.faiss import FaissVectorStore

from effir_integrations.adapters.llama_index import EffirEmbedding
from effir_integrations.cli import console
from effir_integrations.evaluation.evaluate import Evaluation


def index_and_search(recipe: Recipe) -> list[Evaluation]:
    """Embed the documents once, search all queries, and score the run."""
    embedding = EffirEmbedding.from_model(
        recipe.encoder.encoder, max_length=recipe.options.max_length
    )
    stage = recipe.stage("index", lambda folder: build_index(recipe, embedding, folder))
    index = load_index(embedding, stage.folder)

    retriever = index.as_retriever(similarity_top_k=min(DEPTH + 1, len(recipe.data.documents)))

    def find(query: str) -> dict[str, float]:
        found = retriever.retrieve(query)
        return {result.node.node_id: float(result.get_score()) for result in found}

    run, latency = recipe.search_each(find)
    if question := recipe.options.question:
        engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=3)
        console.stdout().print(str(engine.query(question)), markup=False, soft_wrap=True)
    return [
        recipe.evaluation(
            "LlamaIndex, FAISS flat",
            run,
            documents_per_second=recipe.rate(stage),
            query_latency_ms=latency,
        )
    ]


def build_index(recipe: Recipe, embedding: EffirEmbedding, folder: Path) -> None:
    """Write an index of all documents into `folder`."""
    # LlamaIndex leaves nodes out that hold no text at all
    nodes = [TextNode(id_=name, text=x or " ") for name, x in recipe.data.documents.items()]
    store = FaissVectorStore(faiss.IndexFlatIP(embedding.dimension))
    embedding.check_vector_store(store)
    index = VectorStoreIndex(
        nodes,
        embed_model=embedding,
        storage_context=StorageContext.from_defaults(vector_store=store),
        show_progress=recipe.show_progress,
    )
    index.storage_context.persist(str(folder))


def load_index(embedding: EffirEmbedding, folder: Path) -> BaseIndex:
    """Read an index from disk; FAISS writes a file of its own, so the store is read first."""
    store = FaissVectorStore.from_persist_dir(str(folder))
    embedding.check_vector_store(store)
    context = StorageContext.from_defaults(vector_store=store, persist_dir=str(folder))
    return load_index_from_storage(context, embed_model=embedding)


def command_line() -> ArgumentParser:
    """Return a parser of this recipe's options."""
    parser = recipe_parser(__doc__ or "")
    parser.add_argument("--question", help="print the prompt of a query engine that answers it")
    return parser


if __name__ == "__main__":
    run_recipe(index_and_search, "llama_index", command_line())
