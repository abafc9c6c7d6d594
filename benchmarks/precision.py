"""What each precision costs: cosine to the fp32 vectors, nDCG@10, and speed, on a BEIR corpus.

python benchmarks/precision.py --data scifact --max-length 256
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time

import numpy as np
import torch
import transformers
from minilm import MINILM_HELP, minilm

from effir_integrations import Encoder, load
from effir_integrations.data.beir import load_beir
from effir_integrations.encoder.precision import has_bf16
from effir_integrations.evaluation.evaluate import evaluate


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=MINILM_HELP)
    parser.add_argument("--data", required=True, help="BEIR folder")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--documents", type=int, default=128, help="for cosine and speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "int8", "int8-dynamic"])
    return parser.parse_args()


def speeds(encoders: dict[str, Encoder], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Return documents a second of each encoder in each round, in turns."""
    found: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(rounds):
        for name, encoder in encoders.items():
            start = time.perf_counter()
            encoder.encode(texts)
            found[name].append(len(texts) / (time.perf_counter() - start))
    return found


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    data = load_beir(options.data)
    texts = list(data.documents.values())[: options.documents]
    model = options.model or minilm()
    names = ["fp32", *options.precisions]
    encoders = {
        name: load(model, precision=name, max_length=options.max_length, device="cpu")
        for name in names
    }
    vectors = {name: unit(encoder.encode(texts)) for name, encoder in encoders.items()}
    timed = speeds(encoders, texts, options.rounds)
    print(f"{data.name}, {options.max_length} tokens, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, bf16 in hardware: {has_bf16('cpu')}\n")
    print("| precision | cosine to fp32, mean | least | nDCG@10 | documents/s | spread |")
    print("|---|---|---|---|---|---|")
    for name, encoder in encoders.items():
        cosines = (vectors[name] * vectors["fp32"]).sum(1)
        ndcg = evaluate(encoder, data, max_length=options.max_length).metrics["nDCG@10"]
        rate = timed[name]
        print(
            f"| {name} | {cosines.mean():.5f} | {cosines.min():.5f} | {ndcg:.4f} | "
            f"{statistics.median(rate):.1f} | {min(rate):.1f} to {max(rate):.1f} |",
            flush=True,
        )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors scaled to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
