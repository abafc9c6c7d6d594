"""Quality kept by each way of removing MLP neurons, on the test queries of a BEIR corpus.

One table: the full model, then plain removal, mean compensation and reconstruction, with a width
for each layer or one for all (`uniform`), at several shares of the neurons. Intervals are of the
share of the full model's nDCG@10 (95 %, paired bootstrap over queries). Rows that the --json file
holds are not measured again. With --speed-rounds all models are then timed in turns.

    python benchmarks/reconstruct.py --data scifact --max-length 256
    python benchmarks/reconstruct.py --data scifact --methods reconstruct uniform --speed-rounds 7
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from minilm import MINILM_HELP, minilm
from subset import subset

from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.encoder.loading import load
from effir_integrations.evaluation.evaluate import evaluate
from effir_integrations.evaluation.intervals import interval
from effir_integrations.evaluation.speed import interleaved_speed
from effir_integrations.pruning.compress import compress
from effir_integrations.pruning.config import CompressConfig

METHODS = ("plain", "mean", "reconstruct", "uniform")
COLUMNS = ("model", "parameters", "nDCG@10", "share of full", "R@100", "seconds to compress")
SPEED_DOCUMENTS, SPEED_QUERIES = 64, 300


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=MINILM_HELP)
    add("--data", required=True, help="BEIR folder or datasets name")
    add("--split", default="test")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--max-length", type=int, default=256)
    add("--keep", type=float, nargs="+", default=[0.5, 0.3])
    add("--methods", nargs="+", default=["plain", "mean", "reconstruct"], choices=METHODS)
    add("--calibration", nargs="+", default=["sample"])
    add("--calibration-texts", type=int, default=256)
    add("--multiple-of", type=int, default=64)
    add("--dtype", default="fp32", help="precision of the evaluation")
    add("--speed-rounds", type=int, default=0, help="time all models in so many turns")
    add("--work", type=Path, help="keep models here (default: a temporary folder)")
    add("--json", type=Path, help="rows, also to resume from")
    return parser.parse_args()


@dataclass(frozen=True)
class Variant:
    """A way of removing neurons."""

    keep: float
    method: str
    calibration: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.keep:.0%} of the neurons, {self.method} ({Path(self.calibration).name})"

    def config(self, options: argparse.Namespace) -> CompressConfig:
        """Return how it is made."""
        return CompressConfig(
            keep_neurons=self.keep,
            method="reconstruct" if self.method == "uniform" else self.method,
            uniform=self.method == "uniform",
            multiple_of=options.multiple_of,
            calibration=None if self.calibration == "sample" else self.calibration,
            calibration_texts=options.calibration_texts,
        )


def variants(options: argparse.Namespace) -> Iterator[Variant]:
    """Yield what is asked for."""
    for keep in options.keep:
        for method in options.methods:
            for calibration in options.calibration if method != "plain" else ["sample"]:
                yield Variant(keep, method, calibration)


class Bench:
    """Makes and measures what is not in the table yet."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.base = options.model or minilm()
        self.data: RetrievalData = subset(
            load_beir(options.data, options.split), others=options.others
        )
        self.rows: list[dict[str, Any]] = []
        if options.json is not None and options.json.is_file():
            self.rows = json.loads(options.json.read_text(encoding="utf-8"))

    def folder(self, variant: Variant) -> tuple[Path, float]:
        """Return a model, made if it is not there, and the seconds that took."""
        out = self.work / f"{variant.keep}-{variant.method}-{Path(variant.calibration).name}"
        start = time.perf_counter()
        if not out.is_dir():
            compress(self.base, out, variant.config(self.options))
        return out, time.perf_counter() - start

    def measure(self, name: str, model: str | Path, seconds: float) -> None:
        """Evaluate a model, print its row and keep it."""
        options = self.options
        found = evaluate(model, self.data, max_length=options.max_length, dtype=options.dtype)
        row = {
            "model": name,
            "parameters": found.parameters,
            "nDCG@10": round(found.metrics["nDCG@10"], 4),
            "share": "1",
            "R@100": round(found.metrics["R@100"], 4),
            "compress_seconds": round(seconds, 1),
            "by query": found.ndcg_by_query,
        }
        if self.rows:
            row["share"] = share(row, self.rows[0])
        self.rows.append(row)
        print_row(row)
        if options.json is not None:
            options.json.write_text(json.dumps(self.rows, indent=2) + "\n", encoding="utf-8")

    def run(self) -> None:
        """Print the table."""
        known = {row["model"] for row in self.rows}
        for row in self.rows:
            print_row(row)
        if not known:
            self.measure("full", self.base, 0.0)
        for variant in variants(self.options):
            if variant.name not in known:
                self.measure(variant.name, *self.folder(variant))

    def speed(self) -> None:
        """Print how fast every model is, timed in turns."""
        options = self.options
        chosen = list(variants(options))
        folders = [Path(self.base), *(self.folder(variant)[0] for variant in chosen)]
        documents = list(self.data.documents.values())
        texts = documents[:: max(1, len(documents) // SPEED_DOCUMENTS)][:SPEED_DOCUMENTS]
        queries = list(self.data.queries.values())[:SPEED_QUERIES]
        speeds = interleaved_speed(
            [load(folder, dtype=options.dtype) for folder in folders],
            texts,
            queries,
            rounds=options.speed_rounds,
            max_length=options.max_length,
        )
        columns = ("model", "documents/s", "times full", "queries/s", "times full", "ms a query")
        print(f"\n{torch.get_num_threads()} threads, medians of {options.speed_rounds} rounds\n")
        print(head(columns))
        first = speeds[0]
        for name, each in zip(["full", *(x.name for x in chosen)], speeds, strict=True):
            cells = [name, f"{each.documents_per_second:.1f}"]
            cells.append(f"{each.documents_per_second / first.documents_per_second:.2f}")
            cells.append(f"{each.queries_per_second:.1f}")
            cells.append(f"{each.queries_per_second / first.queries_per_second:.2f}")
            print("| " + " | ".join([*cells, f"{1000 * each.query_latency:.1f}"]) + " |")


def share(row: dict[str, Any], full: dict[str, Any]) -> str:
    """Return the share of the full model's nDCG@10, with its interval."""
    figures = (row["by query"], full["by query"])
    low, high = interval(lambda a, b: a / np.maximum(b, 1e-12), *figures)
    mean = row["nDCG@10"] / full["nDCG@10"]
    return f"{mean:.4f} ({low:.3f} to {high:.3f})"


def head(columns: tuple[str, ...]) -> str:
    """Return the first two lines of a table."""
    return "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)


def print_row(row: dict[str, Any]) -> None:
    """Print one Markdown row."""
    shown = [str(value) for name, value in row.items() if name != "by query"]
    print("| " + " | ".join(shown) + " |", flush=True)


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder:
        bench = Bench(options, options.work or Path(folder))
        print(f"{bench.data.name}, {len(bench.data.documents)} documents,", end=" ")
        print(f"{len(bench.data.queries)} {bench.data.split} queries, {options.max_length} tokens,")
        print(f"{options.dtype}, torch {torch.__version__}\n")
        print(head(COLUMNS), flush=True)
        bench.run()
        if options.speed_rounds:
            bench.speed()


if __name__ == "__main__":
    main()
