"""Quality, size and speed of converted models, beside the model in torch that they were made of.

One row a format and dtype: vectors compared on the documents, nDCG@10 on a BEIR corpus searched
exactly, and documents a second. --documents takes the judged ones and the first others, for slow
machines. Each row is measured by itself, and torch gets as many threads as the others.

    python benchmarks/converted.py --data scifact --documents 1500 --threads 2
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from minilm import MINILM_HELP, minilm

from effir_integrations import convert, load, load_beir
from effir_integrations.data.beir import RetrievalData
from effir_integrations.evaluation.retrieval import rank, score_queries
from effir_integrations.onnx import OnnxEncoder, OpenVinoEncoder

RUNTIMES: dict[str, Any] = {"onnx": OnnxEncoder, "openvino": OpenVinoEncoder}
ROWS = ("onnx:fp32", "onnx:fp16", "onnx:int8", "openvino:fp32", "openvino:fp16")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=MINILM_HELP)
    parser.add_argument("--data", required=True, help="BEIR folder with test qrels")
    parser.add_argument("--documents", type=int, help="at most that many; default: all")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), metavar="FORMAT:DTYPE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="rows, as JSON")
    return parser.parse_args()


def part_of(data: RetrievalData, documents: int | None) -> RetrievalData:
    """Return the judged documents and the first others, `documents` in all."""
    if documents is None:
        return data
    judged = dict.fromkeys(chain.from_iterable(data.qrels.values()))
    wanted = list(dict.fromkeys([*filter(data.documents.__contains__, judged), *data.documents]))
    return replace(data, documents={name: data.documents[name] for name in wanted[:documents]})


def measure(encoder: Any, data: RetrievalData, expected: np.ndarray | None) -> dict[str, Any]:
    """Encode queries and documents, and score what an exact search finds."""
    encoder.encode_query(["warm up"])
    start = time.perf_counter()
    documents = encoder.encode_document(list(data.documents.values()))
    seconds = time.perf_counter() - start
    queries = encoder.encode_query(list(data.queries.values()))
    vectors = (unit(x) for x in (documents, queries))
    found = rank(
        list(data.documents), next(vectors), list(data.queries), next(vectors), drop_same_id=False
    )
    cosine = 1.0
    if expected is not None:
        cosine = float((unit(documents) * unit(expected)).sum(axis=1).min())
    return {
        "nDCG@10": round(fmean(score_queries(data.qrels, found)["nDCG@10"].values()), 4),
        "least cosine": round(cosine, 6),
        "documents/s": round(len(documents) / seconds, 1),
        "vectors": documents,
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of unit length."""
    made: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


def main() -> None:
    """Print the table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    name = options.model or minilm()
    data = part_of(load_beir(options.data, "test"), options.documents)
    rows = []
    row = {"model": "torch, fp32", "MB": None, **measure(load(name, dtype="fp32"), data, None)}
    expected = row.pop("vectors")
    rows.append(row)
    print(row, flush=True)
    with tempfile.TemporaryDirectory() as work:
        for to, dtype in (given.split(":") for given in options.rows):
            out = Path(work) / f"{to}-{dtype}"
            done = convert(name, out, to, dtype=dtype)
            encoder = RUNTIMES[to](out, threads=options.threads)
            size = sum(x.stat().st_size for x in (out / done.file).parent.iterdir())
            row = {
                "model": f"{to}, {dtype}",
                "MB": round(size / 1e6, 1),
                **measure(encoder, data, expected),
            }
            row.pop("vectors")
            rows.append(row)
            print(row, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
