"""Repairs that need no gradient, side by side at three sizes: what each adds to today's refit.

Quality is that of train queries in the documents relevant to them and some others; the test split
is not read, so that defaults may follow from the table. Beside it stands the mean cosine of the
documents to those of the full model, which needs no judgement. Intervals are of the share of the
full model's nDCG@10 (95 %, paired bootstrap over queries). Rows that the --json file holds are not
measured again.

    python benchmarks/repairs.py --data scifact --others 800 --max-length 128 --json repairs.json
    python benchmarks/repairs.py --data scifact --others 800 --max-length 128 --texts 512 \
        --neurons 0.5 0.3 --heads --drop
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from minilm import MINILM_HELP, minilm
from repair_steps import Cut, Repairer
from subset import subset

from effir_integrations.data.beir import load_beir
from effir_integrations.data.calibration import Calibration, calibrated, load_calibration
from effir_integrations.encoder.search_vectors import mean_cosine
from effir_integrations.evaluation.encoded import Settings, encode_data
from effir_integrations.evaluation.evaluate import score
from effir_integrations.evaluation.intervals import interval
from effir_integrations.model.hooks import evaluation_mode
from effir_integrations.pruning.analyze import analyze
from effir_integrations.pruning.config import DropConfig, ReconstructConfig
from effir_integrations.pruning.drop import drop
from effir_integrations.pruning.reconstruct import choose_neurons
from effir_integrations.pruning.refit import Calibrator
from effir_integrations.pruning.sensitivity import weigh_tokens

COLUMNS = ("size", "repair", "parameters", "nDCG@10", "share of full", "cosine of documents")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=MINILM_HELP)
    add("--data", required=True, help="BEIR folder")
    add("--split", default="train")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--queries", type=int, help="so many of them (default: all)")
    add("--max-length", type=int, default=128)
    add("--texts", type=int, help="documents of the corpus to fit on (default: the shipped texts)")
    add("--neurons", type=float, nargs="*", default=[0.5, 0.3, 0.15], help="shares that stay")
    add("--drop", type=float, nargs="*", default=[1 / 6, 1 / 3, 1 / 2], help="shares of MLPs gone")
    add("--heads", type=float, nargs="*", default=[0.75, 0.5, 0.25], help="shares that stay")
    add("--json", type=Path, help="rows, also to resume from")
    return parser.parse_args()


class Bench:
    """Makes the cuts, and measures what is not in the table yet."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.base = options.model or minilm()
        data = load_beir(options.data, options.split)
        self.data = subset(data, queries=options.queries, others=options.others)
        self.texts: Calibration = (
            calibrated(None)
            if options.texts is None
            else load_calibration(options.data, limit=options.texts)
        )
        self.repairer = Repairer(self.base, self.texts.texts, options.max_length)
        self.settings = Settings(max_length=options.max_length, dtype="fp32")
        self.full = encode_data(self.base, self.data, self.settings)
        self.best = score(self.full, self.data)
        self.rows: list[dict[str, Any]] = []
        if options.json is not None and options.json.is_file():
            self.rows = json.loads(options.json.read_text(encoding="utf-8"))

    def cuts(self) -> Iterator[tuple[str, str, int, Cut]]:
        """Yield size, repair, parameters that go, and the cut."""
        base = self.repairer.plan.base
        for keep in self.options.neurons:
            yield from self._of_neurons(keep)
        report = analyze(self.repairer.encoder, self.texts, max_length=self.options.max_length)
        for share in self.options.drop:
            number = round(share * base.layers)
            gone = drop(base, DropConfig(mlp=number), report).drop_mlp
            yield from self._of_mlps(f"{number} of {base.layers} MLPs dropped", gone)
        if self.options.heads:
            yield from self._of_heads()

    def _of_neurons(self, keep: float) -> Iterator[tuple[str, str, int, Cut]]:
        base, size = self.repairer.plan.base, f"{keep:.0%} of the neurons"
        neurons = self._chosen(keep)
        left = {layer: len(kept) for layer, kept in neurons.items()}
        gone = sum((base.mlp_widths[x] - y) * base.neuron_parameters for x, y in left.items())
        plain = self._chosen(keep, "plain")
        yield size, "none (plain)", gone, Cut(neurons=plain, refit=False)
        yield size, "reconstruct, by stream", gone, Cut(neurons=neurons)
        yield size, "by stream, ridge 1e-2", gone, Cut(neurons=neurons, ridge=1e-2)
        for strength, ridge in ((0.3, 0.1), (0.5, 1e-3)):
            name = f"by stream, attention refitted for {strength:g} (ridge {ridge:g})"
            yield (
                size,
                name,
                gone,
                Cut(neurons=neurons, attention=strength, attention_ridge=ridge),
            )
        for name, counts in (
            ("reconstruct, by squared gradients", self._squared),
            ("reconstruct, by gradients", self._counts),
        ):
            chosen = self._chosen(keep, counts=counts)
            yield size, name, gone, Cut(neurons=chosen, counts=counts)

    def _of_mlps(self, size: str, dropped: tuple[int, ...]) -> Iterator[tuple[str, str, int, Cut]]:
        base = self.repairer.plan.base
        gone = sum(base.mlp_parameters[layer] for layer in dropped)
        others = {
            layer: torch.arange(width)
            for layer, width in enumerate(base.mlp_widths)
            if layer not in dropped
        }
        hidden = base.hidden_size
        maps = len(dropped) * hidden * (hidden + 1)
        yield size, "none (plain)", gone, Cut(neurons={}, dropped=dropped)
        yield size, "other MLPs refitted", gone, Cut(neurons=others, dropped=dropped)
        yield (
            size,
            "other MLPs and attentions refitted",
            gone,
            Cut(neurons=others, dropped=dropped, attention=0.5, attention_ridge=1e-3),
        )
        yield (
            size,
            "a linear map in place of each, others refitted",
            gone - maps,
            Cut(neurons=others, dropped=dropped, linear=True),
        )
        narrow = round(maps / len(dropped) / base.neuron_parameters)
        removals, _ = self._ranked
        few = {layer: removals[layer].kept(narrow) for layer in dropped}
        yield (
            size,
            f"{narrow} neurons left in each, all refitted",
            gone - len(dropped) * narrow * base.neuron_parameters,
            Cut(neurons={**others, **few}),
        )

    def _of_heads(self) -> Iterator[tuple[str, str, int, Cut]]:
        base, steps = self.repairer.plan.base, self.repairer.rank_heads()
        full = {layer: torch.arange(width) for layer, width in enumerate(base.mlp_widths) if width}
        groups = len(steps[0]) + 1
        total = groups * len(steps)
        for keep in self.options.heads:
            heads, goes = _heads_left(steps, total - round(keep * total))
            gone = round(sum(base.attention_parameters) / total * goes)
            size = f"{1 - goes / total:.0%} of the heads, or neurons for as much"
            yield (
                size,
                "heads go, their projections refitted",
                gone,
                Cut(neurons={}, heads=heads, attention=0.0, attention_ridge=1e-3),
            )
            yield (
                size,
                "heads go, all projections refitted",
                gone,
                Cut(neurons=full, heads=heads, attention=0.5, attention_ridge=1e-3),
            )
            share = 1 - gone / base.neuron_parameters / sum(base.mlp_widths)
            neurons = self._chosen(share, multiple_of=1)
            yield size, "neurons go instead (reconstruct, by stream)", gone, Cut(neurons=neurons)

    def _calibrator(self, config: ReconstructConfig, counts: Any = None) -> Calibrator:
        return Calibrator(
            self.repairer.encoder,
            self.texts,
            config,
            False,
            batches=self.repairer.batches,
            counts=counts,
        )

    @cached_property
    def _ranked(self) -> Any:
        plan = self.repairer.plan
        widths = {layer: width for layer, width in enumerate(plan.mlp_widths) if width}
        with evaluation_mode(self.repairer.model):
            config = ReconstructConfig(keep_neurons=0.5, count_by="stream")
            return self._calibrator(config).rank(plan, widths)

    def _chosen(
        self, keep: float, method: str = "reconstruct", *, counts: Any = None, multiple_of: int = 64
    ) -> dict[int, torch.Tensor]:
        config = ReconstructConfig(
            keep_neurons=keep,
            method=method,
            multiple_of=multiple_of,
            count_by="stream" if counts is None else "gradients",
        )
        with evaluation_mode(self.repairer.model):
            run = self._calibrator(config, counts)
            return choose_neurons(run, self.repairer.plan, config, keep)[0]

    @cached_property
    def _squared(self) -> dict[tuple[int, int], torch.Tensor]:
        return {key: count.square() for key, count in self._counts.items()}

    @cached_property
    def _counts(self) -> dict[tuple[int, int], torch.Tensor]:
        """Return what tokens count by the gradient of random probes of the vectors."""
        repairer = self.repairer
        return weigh_tokens(repairer.encoder, repairer.plan, repairer.batches)

    def measure(self, size: str, repair: str, gone: int, cut: Cut) -> dict[str, Any]:
        """Evaluate a cut, where its row is not there, and keep the row."""
        for row in self.rows:
            if (row["size"], row["repair"]) == (size, repair):
                return row
        small = self.repairer.cut(cut)
        found = encode_data(small, self.data, self.settings)
        ours = score(found, self.data)
        assert found.documents is not None and self.full.documents is not None
        low, high = interval(np.divide, ours.ndcg_by_query, self.best.ndcg_by_query)
        row = {
            "size": size,
            "repair": repair,
            "parameters": self.repairer.plan.base.parameters - gone,
            "ndcg": ours.metrics["nDCG@10"],
            "share": ours.metrics["nDCG@10"] / self.best.metrics["nDCG@10"],
            "interval": [low, high],
            "cosine": mean_cosine(found.documents, self.full.documents),
        }
        self.rows.append(row)
        if self.options.json is not None:
            self.options.json.write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        return row


def _heads_left(steps: dict[int, Any], number: int) -> tuple[dict[int, torch.Tensor], int]:
    """Take groups of heads from whichever layer loses least by it; one stays in each."""
    at, heads = dict.fromkeys(steps, 0), {}
    taken = 0
    while taken < number and any(at[layer] < len(steps[layer]) for layer in steps):
        left = [layer for layer in steps if at[layer] < len(steps[layer])]
        layer = min(left, key=lambda each: steps[each][at[each]][0])
        heads[layer] = steps[layer][at[layer]][1]
        at[layer] += 1
        taken += 1
    return heads, taken


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    low, high = row["interval"]
    cells = [
        row["size"],
        row["repair"],
        f"{row['parameters']:,}",
        f"{row['ndcg']:.4f}",
        f"{row['share']:.4f} ({low:.3f} to {high:.3f})",
        f"{row['cosine']:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    bench = Bench(options)
    setting = f"{len(bench.data.documents)} documents, {len(bench.data.queries)} {options.split}"
    print(f"{bench.data.name}, {setting} queries, {options.max_length} tokens; ", end="")
    print(f"{len(bench.texts)} texts of {bench.texts.source}; torch {torch.__version__}; ", end="")
    print(f"full model nDCG@10 {bench.best.metrics['nDCG@10']:.4f}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for each in bench.cuts():
        print(line(bench.measure(*each)), flush=True)


if __name__ == "__main__":
    main()
