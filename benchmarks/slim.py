"""What gradients are worth when MLP neurons are chosen: `slim` against `reconstruct`.

Every method sees the same train examples, `reconstruct` their texts alone. The test queries are
searched in the documents that are relevant to them and some others, so figures are higher than on
the whole corpus. Intervals are of the difference to `reconstruct` at the same width: 95 %, paired
bootstrap over queries.

    python benchmarks/slim.py --data scifact --json slim.json
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from minilm import MINILM_HELP, minilm
from subset import difference, subset

from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.data.training_examples import TrainingData, load_training
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.evaluation.retrieval import rank, score_queries
from effir_integrations.model.hooks import masked
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.slim import slim
from effir_integrations.pruning.slim_config import SlimConfig

METHODS = (
    "reconstruct",
    "reconstruct, by stream",
    "slim",
    "slim paper",
    "slim paper + reconstruct",
    "plain",
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=MINILM_HELP)
    parser.add_argument("--data", required=True, help="BEIR folder with train and test qrels")
    parser.add_argument("--others", type=int, default=1000, help="documents relevant to no query")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.3, 0.15])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=500, help="of the paper's gates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="rows, also to resume from")
    return parser.parse_args()


class Bench:
    """Makes every plan and evaluates what is not in the table yet."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options = options
        self.work = work
        self.base = options.model or minilm()
        self.test = subset(
            load_beir(options.data, "test"), others=options.others, seed=options.seed
        )
        self.examples = self._examples(load_beir(options.data, "train"))
        self.rows: list[dict[str, Any]] = []
        if options.json is not None and options.json.is_file():
            self.rows = json.loads(options.json.read_text(encoding="utf-8"))

    def _examples(self, train: RetrievalData) -> TrainingData:
        """Return train queries with one relevant document each, no two of them the same one."""
        queries = sorted(train.queries.keys() & train.qrels.keys())
        random.Random(self.options.seed).shuffle(queries)
        pairs: dict[str, str] = {}
        for query in queries:
            for document in sorted(doc for doc, x in train.qrels[query].items() if x > 0):
                pairs.setdefault(document, query)
        rows = [
            {"query": train.queries[query], "pos": [train.documents[document]], "neg": []}
            for document, query in list(pairs.items())[: self.options.examples]
        ]
        return load_training(rows, negatives=0)

    def ndcg(self, plan: PruningPlan | None) -> dict[str, float]:
        """Return nDCG@10 of every test query."""
        encoder = load(self.base, max_length=self.options.max_length)
        model = transformer_model(encoder)
        plan = PruningPlan(base=BaseIdentity.of(model)) if plan is None else plan
        queries = self.test.queries
        with masked(model, plan):
            documents = encoder.encode_document(
                list(self.test.documents.values()), normalize_embeddings=True
            )
            vectors = encoder.encode_query(list(queries.values()), normalize_embeddings=True)
        run = rank(list(self.test.documents), documents, list(queries), vectors)
        return score_queries(self.test.qrels, run)["nDCG@10"]

    def plans(self, keep: float) -> dict[str, Callable[[], PruningPlan]]:
        """Return what makes the plan of each method at a width."""
        options = self.options
        texts = [x for name in ("query", "positive") for x in self.examples.dataset[name]]
        refit = ReconstructConfig(
            keep_neurons=keep, max_length=options.max_length, count_by="stream"
        )
        labelled = SlimConfig(
            sparsity=1 - keep, max_length=options.max_length, examples=options.examples
        )
        gates = replace(labelled, paper=True, steps=options.steps)

        def slimmed(config: SlimConfig) -> PruningPlan:
            return slim(load(self.base), self.examples, config, self.work / "gates")

        def refitted(config: ReconstructConfig, plan: PruningPlan | None = None) -> PruningPlan:
            return reconstruct(load(self.base), list(texts), config, plan=plan)

        return {
            "reconstruct": partial(refitted, replace(refit, count_by="gradients")),
            "reconstruct, by stream": partial(refitted, refit),
            "slim": partial(slimmed, labelled),
            "slim paper": partial(slimmed, gates),
            "slim paper + reconstruct": lambda: refitted(
                replace(refit, keep_neurons=None), slimmed(gates)
            ),
            "plain": partial(refitted, replace(refit, method="plain", count_by=None)),
        }

    def values(self, name: str) -> dict[str, float] | None:
        """Return a row's nDCG@10 by query, where it is in the table."""
        return next((row["by query"] for row in self.rows if row["model"] == name), None)

    def measure(self, name: str, plan: PruningPlan | None, seconds: float, versus: str) -> None:
        """Evaluate a plan, keep its row and print it."""
        values = self.ndcg(plan)
        full = self.values("full") or values
        mean = fmean(values.values())
        row: dict[str, Any] = {
            "model": name,
            "nDCG@10": round(mean, 4),
            "share": round(mean / fmean(full.values()), 4),
            "interval": difference(values, self.values(versus)),
            "seconds to choose": round(seconds),
            "widths": list(plan.mlp_widths) if plan else None,
            "by query": values,
        }
        self.rows.append(row)
        if self.options.json is not None:
            self.options.json.write_text(json.dumps(self.rows) + "\n", encoding="utf-8")
        shown = [str(row[x]) for x in row if x not in ("widths", "by query")]
        print("| " + " | ".join(shown) + " |", flush=True)

    def run(self) -> None:
        """Fill the table."""
        if self.values("full") is None:
            self.measure("full", None, 0, "")
        for keep in self.options.keep:
            plans = self.plans(keep)
            for method in self.options.methods:
                name = f"{keep:.0%} of the neurons, {method}"
                if self.values(name) is None:
                    start = time.perf_counter()
                    plan = plans[method]()
                    seconds = time.perf_counter() - start
                    self.measure(name, plan, seconds, f"{keep:.0%} of the neurons, reconstruct")


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(options, Path(work))
        print(
            f"{bench.test.name}: {len(bench.test.queries)} test queries, "
            f"{len(bench.test.documents)} documents, {options.max_length} tokens, fp32; "
            f"{len(bench.examples)} train examples; "
            f"torch {torch.__version__}\n"
        )
        names = ("model", "nDCG@10", "share", "against reconstruct", "seconds to choose")
        print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
        bench.run()


if __name__ == "__main__":
    main()
