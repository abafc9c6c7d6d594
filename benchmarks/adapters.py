"""Index the same passages through a library's own class and through ours, in turn.

LlamaIndex: `VectorStoreIndex.from_documents` with `HuggingFaceEmbedding` at its default batch of
10, against `EffirEmbedding`. Pyserini: its command `encode` with the encoder class `auto` at its
default batch of 64, against the class `effir`. Both at equal precision (fp32) and at our default.
Passages are the documents of the docstring corpus, or of a BEIR folder, in their order; imports are
not timed. The figure is documents per CPU-second, which a busy machine disturbs least.

    python benchmarks/adapters.py [--data BEIR] [--passages 2000] [--rounds 3] [--threads 1]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode import print_table, ratio, three
from encode_parts import environment
from minilm import minilm

from effir_integrations.data.beir import load_beir
from effir_integrations.demo.docstrings import build_docstring_corpus

MOST_TOKENS = 256
STOCK = "stock, fp32"
LEAST_COSINE = {"fp32": 0.99999, "auto": 0.995}
"""Of our vectors with the stock class's in fp32, of any passage; auto may be bf16."""

Times = dict[str, list[float]]
Job = Callable[[], np.ndarray]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="BEIR folder (default: docstrings)")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args()


def read_passages(options: argparse.Namespace, work: Path) -> list[str]:
    """Return the first documents of the data."""
    data = options.data or build_docstring_corpus(work / "docstrings")
    return list(load_beir(data).documents.values())[: options.passages]


def llama_index_jobs(passages: Sequence[str], work: Path) -> dict[str, Job]:
    """Return what is timed: an index over all passages, kept in memory."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from effir_integrations.adapters.llama_index import EffirEmbedding

    name = minilm()
    models: dict[str, Any] = {
        STOCK: HuggingFaceEmbedding(name, max_length=MOST_TOKENS, device="cpu"),
        "effir, fp32": EffirEmbedding(model_name=name, precision="fp32", device="cpu"),
        "effir, auto": EffirEmbedding(model_name=name, device="cpu"),
    }
    documents = [Document(text=text, id_=str(place)) for place, text in enumerate(passages)]

    def job(model: Any) -> Job:
        model.get_text_embedding("a first text, which loads the model")

        def index() -> np.ndarray:
            made: Any = VectorStoreIndex.from_documents(documents, embed_model=model)
            vectors = made.vector_store.data.embedding_dict
            nodes = {made.docstore.get_node(node).ref_doc_id: node for node in vectors}
            return np.array([vectors[nodes[document.id_]] for document in documents])

        return index

    return {label: job(model) for label, model in models.items()}


def pyserini_jobs(passages: Sequence[str], work: Path) -> dict[str, Job]:
    """Return what is timed: the command `encode` to a FAISS folder, in this process."""
    import faiss

    from effir_integrations.adapters.pyserini.launch import launch
    from effir_integrations.pyserini import register

    register()
    corpus = work / "passages.jsonl"
    lines = (json.dumps({"id": str(i), "text": text}) for i, text in enumerate(passages))
    corpus.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = work / "index"
    shared = ["input", "--corpus", str(corpus), "--fields", "text"]
    shared += ["output", "--embeddings", str(out), "--to-faiss"]
    shared += ["encoder", "--encoder", minilm(), "--fields", "text"]
    shared += ["--max-length", str(MOST_TOKENS), "--dimension", "384", "--device", "cpu"]

    def stock() -> None:
        sys.argv = ["encode", *shared, "--encoder-class", "auto", "--pooling", "mean", "--l2-norm"]
        runpy.run_module("pyserini.encode", run_name="__main__")

    def ours(precision: str) -> Callable[[], None]:
        def encode() -> None:
            os.environ["EFFIR_PRECISION"] = precision
            launch("pyserini.encode", [*shared, "--encoder-class", "effir"])

        return encode

    def job(encode: Callable[[], None]) -> Job:
        def index() -> np.ndarray:
            with contextlib.redirect_stdout(io.StringIO()):
                encode()
            made = faiss.read_index(str(out / "index"))
            return made.reconstruct_n(0, made.ntotal)

        return index

    return {
        STOCK: job(stock),
        "effir, fp32": job(ours("fp32")),
        "effir, auto": job(ours("auto")),
    }


LIBRARIES = {"llama-index": llama_index_jobs, "pyserini": pyserini_jobs}


def measure(jobs: dict[str, Job], rounds: int) -> tuple[Times, Times, dict[str, np.ndarray]]:
    """Return CPU and wall seconds of every job in every round, and its vectors."""
    processor: Times = {name: [] for name in jobs}
    wall: Times = {name: [] for name in jobs}
    vectors = {}
    names = list(jobs)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            start, used = time.perf_counter(), time.process_time()
            vectors[name] = jobs[name]()
            processor[name].append(time.process_time() - used)
            wall[name].append(time.perf_counter() - start)
    return processor, wall, vectors


def check_vectors(vectors: dict[str, np.ndarray]) -> None:
    """Refuse to compare speeds of different vectors.

    Raises:
        RuntimeError: A passage has another vector than in the stock class.
    """
    for name, found in vectors.items():
        least = float((found * vectors[STOCK]).sum(axis=1).min())
        floor = LEAST_COSINE.get(name.split(", ")[1], 0.0)
        if least < floor:
            raise RuntimeError(f"{name}: a passage has cosine {least:.6f} with {STOCK}")


def main() -> None:
    """Measure every library that was asked for, and print a table for each."""
    options = arguments()
    torch.set_num_threads(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if options.threads == 1 else "true"
    results: dict[str, Any] = {"environment": environment(), "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        passages = read_passages(options, Path(folder))
        print(f"{len(passages):,} passages; {json.dumps(results['environment'])}", flush=True)
        for library in options.libraries:
            jobs = LIBRARIES[library](passages, Path(folder))
            processor, wall, vectors = measure(jobs, options.rounds)
            check_vectors(vectors)
            results[library] = {"cpu_seconds": processor, "wall_seconds": wall}
            print(f"\n{library}\n")
            rows = [
                [
                    name,
                    three(len(passages) / statistics.median(seconds)),
                    three(len(passages) / statistics.median(wall[name])),
                    ratio(processor[STOCK], seconds),
                ]
                for name, seconds in processor.items()
            ]
            columns = ["", "documents a CPU-second", "documents/s", "against stock (CPU)"]
            print_table(columns, rows)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
