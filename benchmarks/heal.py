"""Quality kept by removal, reconstruction and slimming, each before and after healing.

One table, on the test queries of a BEIR corpus; intervals are of the difference to `reconstruct` at
the same shape and training (95 %, paired bootstrap over queries). Calibration reads the corpus,
distillation the corpus and the train queries, gates, gradients and fine-tuning the train queries
and judgements with mined negatives; the test queries and judgements are read by the evaluation
alone. Rows that the --json file holds are not measured again, so the table can be filled by several
invocations.

    python benchmarks/heal.py --data scifact --max-length 256 --json heal.json
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from minilm import MINILM_HELP, minilm
from subset import difference, subset

from effir_integrations import analyze, export, load
from effir_integrations.data.beir import RetrievalData, load_beir
from effir_integrations.data.calibration import Calibration, load_calibration
from effir_integrations.data.training_examples import load_training
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.evaluation.evaluate import evaluate
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.config import DropConfig, ReconstructConfig
from effir_integrations.pruning.drop import drop
from effir_integrations.pruning.reconstruct import reconstruct
from effir_integrations.pruning.slim import slim
from effir_integrations.pruning.slim_config import SlimConfig
from effir_integrations.training.config import DistillConfig, FinetuneConfig
from effir_integrations.training.distill import distill
from effir_integrations.training.finetune import finetune
from effir_integrations.training.mine import mine

METHODS = ("reconstruct", "plain", "slim", "slim paper", "slim paper + reconstruct")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help=MINILM_HELP)
    parser.add_argument("--data", required=True, help="BEIR folder with train and test qrels")
    parser.add_argument("--others", type=int, help="documents relevant to no query (default: all)")
    parser.add_argument("--max-length", type=int, default=256, help="tokens when evaluating")
    parser.add_argument("--keep", type=float, nargs="*", default=[0.5, 0.3, 0.15])
    parser.add_argument(
        "--drop", type=int, default=3, help="MLPs to drop in the last part; 0: none"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--calibration-texts", type=int, default=512)
    parser.add_argument("--slim-steps", type=int, default=100)
    parser.add_argument("--slim-negatives", type=int, default=3)
    parser.add_argument("--gate-learning-rate", type=float, default=1e-2)
    parser.add_argument("--heal-steps", type=int, nargs="*", default=[150])
    parser.add_argument("--heal-batch", type=int, default=32)
    parser.add_argument("--heal-rate", type=float, default=5e-4)
    parser.add_argument("--finetune-steps", type=int, default=0, help="after distillation; 0: none")
    parser.add_argument("--finetune-rate", type=float, default=2e-5)
    parser.add_argument("--train-length", type=int, default=128, help="tokens when training")
    parser.add_argument("--dtype", default="bf16", help="precision of the evaluation")
    parser.add_argument("--work", type=Path, help="keep folders here (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="rows, also to resume from")
    return parser.parse_args()


class Bench:
    """Makes every variant and evaluates what is not in the table yet."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options = options
        self.work = work
        self.base = options.model or minilm()
        self.data: RetrievalData = subset(load_beir(options.data, "test"), others=options.others)
        self.rows: list[dict[str, Any]] = []
        if options.json is not None and options.json.is_file():
            self.rows = json.loads(options.json.read_text(encoding="utf-8"))
        corpus = list(self.data.documents.values())
        self.calibration = load_calibration(corpus, limit=options.calibration_texts)
        queries = list(load_beir(options.data, "train").queries.values())
        self.texts: Calibration = load_calibration([*corpus, *queries], limit=None)
        self.gates_seconds: dict[str, float] = {}
        self.method = ""

    def measured(self, name: str) -> bool:
        """Say whether a row is in the table."""
        return any(row["model"] == name for row in self.rows)

    def measure(self, name: str, model: str | Path, seconds: float) -> None:
        """Evaluate a model, print its row and keep it.

        Intervals need the rows of `reconstruct`, which is the first of the methods.
        """
        options = self.options
        result = evaluate(model, self.data, max_length=options.max_length, dtype=options.dtype)
        ndcg = result.metrics["nDCG@10"]
        full = next((row["nDCG@10"] for row in self.rows if row["model"] == "full"), ndcg)
        row = {
            "model": name,
            "parameters": result.parameters,
            "nDCG@10": round(ndcg, 4),
            "share": round(ndcg / full, 4),
            "R@100": round(result.metrics["R@100"], 4),
            "against": self._against(name, result.ndcg_by_query),
            "seconds to make": round(seconds),
            "by query": result.ndcg_by_query,
        }
        self.rows.append(row)
        print(line(row), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(self.rows, indent=2) + "\n", encoding="utf-8")

    def _against(self, name: str, values: dict[str, float]) -> str:
        """Return the difference to `reconstruct`, where that was measured of the same."""
        shape, _, rest = name.partition(f", {self.method}")
        other = f"{shape}, reconstruct{rest}"
        found = [row["by query"] for row in self.rows if row["model"] == other]
        return difference(values, found[0] if self.method and found else None)

    def examples(self) -> Any:
        """Return the train queries with mined negatives."""
        path = self.work / "mined.jsonl"
        if not path.is_file():
            mine(
                load(self.base, dtype=self.options.dtype),
                self.options.data,
                path,
                negatives=7,
                fill=True,
            )
        return load_training(str(path), negatives=self.options.slim_negatives)

    def weighted(self, plan: PruningPlan, sparsity: float) -> PruningPlan:
        """Choose neurons by gradients of the train queries' examples, and refit."""
        config = SlimConfig(sparsity=sparsity, max_length=self.options.train_length)
        return slim(load(self.base), self.examples(), config, plan=plan)

    def slimmed(self, plan: PruningPlan, sparsity: float, folder: Path) -> PruningPlan:
        """Train gates, or cut those that were trained for the same plan."""
        config = SlimConfig(
            paper=True,
            sparsity=sparsity,
            steps=self.options.slim_steps,
            batch_size=16,
            gate_learning_rate=self.options.gate_learning_rate,
            max_length=self.options.train_length,
        )
        start = time.perf_counter()
        made = slim(load(self.base), self.examples(), config, folder, plan=plan)
        # cutting trained gates again takes no time: what counts is training them
        self.gates_seconds.setdefault(str(folder), time.perf_counter() - start)
        return made

    def refitted(self, plan: PruningPlan, keep: float | None, method: str) -> PruningPlan:
        """Remove neurons without gradients, or refit those that are left."""
        config = ReconstructConfig(keep_neurons=keep, method=method)
        return reconstruct(load(self.base), self.calibration, config, plan=plan)

    def shapes(self) -> Iterator[tuple[str, str, Callable[[], PruningPlan], Path]]:
        """Yield the name of every shape, a method, what makes its plan, and its gates' folder."""
        identity = BaseIdentity.of(transformer_model(load(self.base)), self.base)
        empty = PruningPlan(base=identity)
        for keep in self.options.keep:
            gates = self.work / "gates"
            yield from self._methods(f"{keep:.0%} of the neurons", empty, keep, 1 - keep, gates)
        if self.options.drop:
            report = analyze(load(self.base), self.calibration)
            dropped = drop(identity, DropConfig(mlp=self.options.drop), report)
            name = f"{self.options.drop} of {identity.layers} MLPs dropped"
            yield from self._methods(name, dropped, 1.0, 0.3, self.work / "gates-dropped")

    def _methods(
        self, name: str, plan: PruningPlan, keep: float, sparsity: float, gates: Path
    ) -> Iterator[tuple[str, str, Callable[[], PruningPlan], Path]]:
        def plain() -> PruningPlan:
            return plan if keep == 1 else self.refitted(plan, keep, "plain")

        made: dict[str, Callable[[], PruningPlan]] = {
            "plain": plain,
            "reconstruct": lambda: self.refitted(plan, keep, "reconstruct"),
            "slim": lambda: self.weighted(plan, sparsity),
            "slim paper": lambda: self.slimmed(plan, sparsity, gates),
            "slim paper + reconstruct": lambda: self.refitted(
                self.slimmed(plan, sparsity, gates), None, "reconstruct"
            ),
        }
        for method in self.options.methods:
            # where MLPs are dropped, slimming takes neurons of the rest as well
            more = f", {sparsity:.0%} of the rest gone" if keep == 1 and "slim" in method else ""
            yield f"{name}{more}", method, made[method], gates

    def run(self) -> None:
        """Print the table."""
        if not self.measured("full"):
            self.measure("full", self.base, 0)
        for shape, method, make, gates in self.shapes():
            name, self.method = f"{shape}, {method}", method
            healed = [f"{name}, {steps} steps of distillation" for steps in self.options.heal_steps]
            tuned = f" and {self.options.finetune_steps} of fine-tuning"
            wanted = [name, *healed]
            if self.options.finetune_steps:
                wanted += [row + tuned for row in healed]
            if all(map(self.measured, wanted)):
                continue
            start = time.perf_counter()
            plan = make()
            seconds = time.perf_counter() - start
            if "paper" in method:
                seconds = max(seconds, self.gates_seconds[str(gates)])
            folder = self.work / "model"
            export(load(self.base), plan, folder, force=True)
            if not self.measured(name):
                self.measure(name, folder, seconds)
            for steps, healed_name in zip(self.options.heal_steps, healed, strict=True):
                if not all(self.measured(row) for row in wanted if healed_name in row):
                    self.heal(folder, steps, healed_name)
                    if self.options.finetune_steps:
                        self.tune(self.work / "healed", healed_name + tuned)

    def heal(self, folder: Path, steps: int, name: str) -> None:
        """Distill the full model into a folder and measure the result."""
        config = DistillConfig(
            steps=steps,
            batch_size=self.options.heal_batch,
            learning_rate=self.options.heal_rate,
            max_length=self.options.train_length,
            trains="all",
        )
        start = time.perf_counter()
        healed = self.work / "healed"
        # in bf16 the teacher's vectors are off by some 1e-5 of cosine, and made four times faster
        teacher = load(self.base, dtype=self.options.dtype)
        distill(load(folder), teacher, self.texts, config, healed, force=True)
        seconds = time.perf_counter() - start
        if not self.measured(name):
            self.measure(name, healed, seconds)

    def tune(self, folder: Path, name: str) -> None:
        """Fine-tune a folder on the train queries and measure the result."""
        config = FinetuneConfig(
            steps=self.options.finetune_steps,
            batch_size=16,
            learning_rate=self.options.finetune_rate,
            max_length=self.options.train_length,
            trains="all",
        )
        start = time.perf_counter()
        out = self.work / "tuned"
        finetune(load(folder), self.examples(), config, out, force=True)
        self.measure(name, out, time.perf_counter() - start)


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    return "| " + " | ".join(str(x) for name, x in row.items() if name != "by query") + " |"


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(options, work)
        print(f"{bench.data.name}: {len(bench.data.documents)} documents,", end=" ")
        print(f"{len(bench.data.queries)} test queries, {options.max_length} tokens,", end=" ")
        print(f"{options.dtype}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        names = ["model", "parameters", "nDCG@10", "share of full", "R@100"]
        names += ["against reconstruct", "seconds to make"]
        print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
        for row in bench.rows:
            print(line(row))
        bench.run()


if __name__ == "__main__":
    main()
