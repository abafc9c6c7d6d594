"""Quality kept by each way of removing MLP neurons, on the test queries of a BEIR corpus.

One run, one table: the full model, then plain removal, mean compensation and reconstruction at
several shares of the neurons, each evaluated on the whole corpus in the same precision.

    python benchmarks/reconstruct.py --data scifact --max-length 256
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import torch
import transformers
from minilm import MINILM_HELP, minilm

from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.evaluation.evaluate import Evaluation, evaluate
from effir_integrations.pruning.compress import compress
from effir_integrations.pruning.config import CompressConfig


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=MINILM_HELP)
    parser.add_argument("--data", required=True, help="BEIR folder or datasets name")
    parser.add_argument("--split", default="test")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--methods", nargs="+", default=["plain", "mean", "reconstruct"])
    parser.add_argument("--calibration", nargs="+", default=["sample"])
    parser.add_argument("--calibration-texts", type=int, default=256)
    parser.add_argument("--multiple-of", type=int, default=64)
    parser.add_argument("--dtype", default="fp32", help="precision of the evaluation")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


def row(name: str, result: Evaluation, first: Evaluation, seconds: float) -> dict[str, object]:
    """Return one line of the table."""
    ndcg = result.metrics["nDCG@10"]
    return {
        "model": name,
        "parameters": result.parameters,
        "nDCG@10": round(ndcg, 4),
        "share": round(ndcg / first.metrics["nDCG@10"], 4),
        "R@100": round(result.metrics["R@100"], 4),
        "compress_seconds": round(seconds, 1),
    }


def measure(options: argparse.Namespace, base: str, data: RetrievalData) -> list[dict[str, object]]:
    """Evaluate the full model and every variant, printing each row as it comes."""
    full = evaluate(base, data, max_length=options.max_length, dtype=options.dtype)
    rows = [row("full", full, full, 0.0)]
    print_row(rows[0])
    for keep in options.keep:
        for method in options.methods:
            for calibration in options.calibration if method != "plain" else ["sample"]:
                config = CompressConfig(
                    keep_neurons=keep,
                    method=method,
                    multiple_of=options.multiple_of,
                    calibration=None if calibration == "sample" else calibration,
                    calibration_texts=options.calibration_texts,
                )
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    compress(base, Path(folder) / "model", config)
                    seconds = time.perf_counter() - start
                    result = evaluate(
                        Path(folder) / "model",
                        data,
                        max_length=options.max_length,
                        dtype=options.dtype,
                    )
                name = f"{keep:.0%} of the neurons, {method} ({Path(calibration).name})"
                rows.append(row(name, result, full, seconds))
                print_row(rows[-1])
    return rows


def print_row(values: dict[str, object]) -> None:
    """Print one Markdown row."""
    print("| " + " | ".join(str(value) for value in values.values()) + " |", flush=True)


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    base = options.model or minilm()
    data = load_beir(options.data, options.split)
    print(
        f"{data.name}, {len(data.documents)} documents, {len(data.queries)} {data.split} queries, "
    )
    print(f"{options.max_length} tokens, {options.dtype}, torch {torch.__version__}\n")
    names = ("model", "parameters", "nDCG@10", "share of full", "R@100", "seconds to compress")
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    rows = measure(options, base, data)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
