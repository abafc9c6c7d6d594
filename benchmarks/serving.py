"""One query at a time: how long every engine takes, for a full and a pruned model, in one run.

torch in fp32, bf16 and compiled, ONNX Runtime in fp32 and int8, OpenVINO, and llama.cpp, where each
is installed; what is not, or cannot hold the model, is named below the table. Engines take turns
over the same queries in an order that rotates. Vectors are compared first, with torch in fp32.

    python benchmarks/serving.py --data scifact --rounds 5
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from encode_parts import environment
from minilm import MINILM_HELP, minilm

from effir_integrations import CompressConfig, compress, convert, load
from effir_integrations.data.beir import load_beir

Answer = Callable[[str], np.ndarray]
"""Takes a query, returns its vector, (dimension,)."""
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "gguf": "llama_cpp"}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help=MINILM_HELP)
    add("--keep", type=float, default=0.5, help="share of the neurons in the pruned model")
    add("--data", required=True, help="BEIR folder whose test queries are asked")
    add("--queries", type=int, default=100)
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--no-compile", action="store_true", help="leave torch.compile out, which takes minutes")
    add("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def torch_answer(folder: Path, **options: Any) -> Answer:
    """Return an answer by PyTorch."""
    encoder = load(folder, device="cpu", **options)
    return lambda query: np.asarray(encoder.encode_query(query))


def onnx_answer(folder: Path, work: Path, threads: int, dtype: str) -> Answer:
    """Return an answer by ONNX Runtime, without torch."""
    from effir_integrations.onnx import OnnxEncoder

    out = work / f"onnx-{dtype}"
    convert(folder, out, "onnx", dtype=dtype)
    encoder = OnnxEncoder(out, threads=threads)
    return lambda query: encoder.encode_query(query)


def openvino_answer(folder: Path, work: Path, threads: int) -> Answer:
    """Return an answer by OpenVINO, without torch."""
    from effir_integrations.onnx import OpenVinoEncoder

    convert(folder, work / "openvino", "openvino")
    encoder = OpenVinoEncoder(work / "openvino", threads=threads)
    return lambda query: encoder.encode_query(query)


def llama_answer(folder: Path, work: Path, threads: int, dtype: str) -> Answer:
    """Return an answer by llama.cpp."""
    import llama_cpp

    convert(folder, work / f"gguf-{dtype}", "gguf", dtype=dtype)
    (file,) = (work / f"gguf-{dtype}").glob("*.gguf")
    encoder = load(folder, device="cpu")
    prompt, length = encoder.prompts.get("query") or "", encoder.max_seq_length or 512
    model = llama_cpp.Llama(
        model_path=str(file),
        embedding=True,
        n_ctx=length,
        n_batch=length,
        n_ubatch=length,
        n_threads=threads,
        verbose=False,
    )
    return lambda query: np.asarray(model.embed(prompt + query, normalize=True))


def engines(options: argparse.Namespace) -> Iterator[tuple[str, str, Any]]:
    """Yield the name of every engine, the package it needs, and what makes its answer."""
    threads = options.threads
    yield "torch fp32", "", lambda folder, work: torch_answer(folder, dtype="fp32")
    yield "torch bf16", "", lambda folder, work: torch_answer(folder, precision="bf16")
    if not options.no_compile:
        yield (
            "torch fp32, compiled",
            "",
            lambda folder, work: torch_answer(folder, dtype="fp32", compile=True),
        )
    for dtype in ("fp32", "int8"):
        yield f"ONNX Runtime {dtype}", "onnx", partial(onnx_answer, threads=threads, dtype=dtype)
    yield "OpenVINO fp32", "openvino", partial(openvino_answer, threads=threads)
    for dtype in ("fp32", "q8_0"):
        made = partial(llama_answer, threads=threads, dtype=dtype)
        yield f"llama.cpp {dtype}", "gguf", made


def prepared(
    options: argparse.Namespace, folders: dict[str, Path], work: Path
) -> tuple[dict[tuple[str, str], Answer], list[str]]:
    """Return an answer by model and engine, and why some are missing."""
    found, missing = {}, []
    for model, folder in folders.items():
        for name, kind, make in engines(options):
            if kind and find_spec(PACKAGES[kind]) is None:
                missing.append(f"{name}: {PACKAGES[kind]} is not installed")
                continue
            try:
                found[model, name] = make(folder, work / model)
            except ValueError as refused:
                missing.append(f"{name}, {model}: {refused}")
    return found, missing


def timed(answers: dict[Any, Answer], queries: list[str], rounds: int) -> dict[Any, list[float]]:
    """Return the seconds of every query, of all rounds, by contender; the first round is left out.

    Each query goes to all contenders before the next one, first to another of them each time.
    """
    order, seconds = list(answers), {key: [] for key in answers}  # type: ignore[var-annotated]
    for number in range(rounds + 1):
        for place, query in enumerate(queries):
            start = (place + number) % len(order)
            for key in order[start:] + order[:start]:
                begun = time.perf_counter()
                answers[key](query)
                if number:
                    seconds[key].append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    """Print the table."""
    options = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    base = Path(options.model or minilm())
    queries = list(load_beir(options.data, "test").queries.values())[: options.queries]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pruned = work / "folder"
        compress(base, pruned, CompressConfig(keep_neurons=options.keep, uniform=True))
        folders = {"full": base, f"{options.keep:.0%} of the neurons": pruned}
        answers, missing = prepared(options, folders, work)
        exact = {model: [answers[model, "torch fp32"](x) for x in queries] for model in folders}
        cosines = {
            (model, engine): min(
                cosine(answer(query), vector)
                for query, vector in zip(queries, exact[model], strict=True)
            )
            for (model, engine), answer in answers.items()
        }
        seconds = timed(answers, queries, options.rounds)
    report(options, base, cosines, seconds, missing)


def report(
    options: argparse.Namespace,
    base: Path,
    cosines: dict[tuple[str, str], float],
    seconds: dict[tuple[str, str], list[float]],
    missing: list[str],
) -> None:
    """Print the table, and write it if that is asked for."""
    print(f"{base.name}, {options.queries} queries, {options.rounds} rounds,", end=" ")
    print(f"{options.threads} threads, {json.dumps(environment())}\n")
    columns = ("model", "engine", "p50, ms", "p95, ms", "torch fp32 / this", "least cosine")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    rows = []
    for (model, engine), taken in seconds.items():
        middle = statistics.median(taken)
        first = statistics.median(seconds[model, "torch fp32"])
        row = {
            "model": model,
            "engine": engine,
            "p50": round(1000 * middle, 2),
            "p95": round(1000 * float(np.quantile(taken, 0.95)), 2),
            "times": round(first / middle, 2),
            "cosine": round(cosines[model, engine], 5),
        }
        rows.append(row)
        print("| " + " | ".join(map(str, row.values())) + " |")
    print("\n" + "\n".join(f"* Left out: {each}." for each in missing))
    if options.json is not None:
        record = {"environment": environment(), "threads": options.threads, "rows": rows}
        options.json.write_text(json.dumps({**record, "missing": missing}, indent=2) + "\n")


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return how alike two vectors are."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


if __name__ == "__main__":
    main()
