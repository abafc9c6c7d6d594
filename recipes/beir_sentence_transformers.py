"""Index and evaluate a BEIR corpus with Sentence Transformers and FAISS.

The vectors of the documents are written to a file that a killed run resumes from, put into a flat
FAISS index, and searched exactly. Without arguments: effir-mini on docstrings of Python's library.

    python recipes/beir_sentence_transformers.py --model MODEL --data beir/scifact

Needs: pip install "effir-integrations[eval]"
"""

from __future__ import annotations

import time
from pathlib import Path

import faiss
import numpy as np
from common import DEPTH, Recipe, recipe_parser, run_recipe

from effir_integrations.corpus.to_file import encode_to_file
from effir_integrations.encoder.encoder import role_prompt
from effir_integrations.encoder.search_vectors import inner_product_is_similarity
from effir_integrations.evaluation.evaluate import Evaluation


def index_and_search(recipe: Recipe) -> list[Evaluation]:
    """Encode the documents once, search all queries, and score the run."""
    stage = recipe.stage("index", lambda folder: build_index(recipe, folder))
    index = faiss.read_index(str(stage.folder / "documents.faiss"))
    ids = (stage.folder / "documents.ids.txt").read_text(encoding="utf-8").splitlines()

    start = time.perf_counter()
    texts = list(recipe.data.queries.values())
    queries = recipe.encoder.embed(texts, "query", show_progress=recipe.show_progress)
    scores, rows = index.search(queries, min(DEPTH + 1, len(ids)))
    seconds = time.perf_counter() - start

    run = {
        query: {ids[row]: float(value) for row, value in zip(*found, strict=True)}
        for query, *found in zip(recipe.data.queries, rows, scores, strict=True)
    }
    return [
        recipe.evaluation(
            "Sentence Transformers, FAISS flat",
            run,
            documents_per_second=recipe.rate(stage),
            queries_per_second=len(texts) / seconds,
        )
    ]


def build_index(recipe: Recipe, folder: Path) -> None:
    """Write `documents.faiss`, whose inner products are the model's similarity, and the ids."""
    encoder = recipe.encoder.encoder
    vectors = recipe.out / "documents.npy"
    encode_to_file(
        encoder,
        recipe.data.documents.items(),
        vectors,
        prompt=role_prompt(encoder, "document"),
        normalize_embeddings=not inner_product_is_similarity(encoder),
        max_length=recipe.options.max_length,
        force=recipe.options.force,
        show_progress=recipe.show_progress,
    )
    stored = np.load(vectors, mmap_mode="r")
    index = faiss.IndexFlatIP(stored.shape[1])
    for start in range(0, len(stored), 65_536):
        index.add(np.ascontiguousarray(stored[start : start + 65_536]))
    faiss.write_index(index, str(folder / "documents.faiss"))
    vectors.with_suffix(".ids.txt").rename(folder / "documents.ids.txt")
    vectors.unlink()


if __name__ == "__main__":
    run_recipe(index_and_search, "sentence_transformers", recipe_parser(__doc__))
