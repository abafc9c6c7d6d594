"""The paper's table 3 on one GPU: a random model in the shape of Mistral-7B, full and pruned.

Checks first that vectors on this device are right, then times queries and documents of the lengths
of NQ, ours beside `SentenceTransformer.encode` and a plain padded loop, compiled and not, with
weights of 4 bits where bitsandbytes is installed, and what `analyze` and `reconstruct` take. No
weight and no text is read: all are drawn from seeds. Every row is printed and written at once, and
what does not fit into `--minutes` is left out with a line. Ends with 1 if a check failed.

    python benchmarks/gpu.py --out gpu-results
    python benchmarks/gpu.py --out gpu-results --rehearse   # a tiny shape, on the CPU
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from encode_parts import environment
from gpu_sections import compiled, correctness, costs, nf4, table
from gpu_sections.clock import Clock, OutOfTime
from gpu_sections.inputs import MISTRAL_7B, SMALL, SMALLEST, TINY, Setting, Shape, make_texts
from gpu_sections.meters import free
from gpu_sections.results import Results
from transformers.utils.logging import disable_progress_bar

from effir_integrations import errors

SECTIONS = tuple(each.SECTION for each in (correctness, table, compiled, costs, nf4))
LEAST_SECONDS = 15
"""A section that has less than this left is not begun."""
QUERY_TOKENS, DOCUMENT_TOKENS = (10, 16), (100, 160)
"""Shortest and longest, BOS and EOS included: about what NQ has."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    names = [section.name for section in SECTIONS]
    add("--out", type=Path, required=True, help="folder of the JSON file and the page")
    add("--minutes", type=float, default=8.0, help="what does not fit is left out")
    add("--rehearse", action="store_true", help="a tiny shape on the CPU: shows that all runs")
    add("--sections", nargs="+", choices=names, default=names)
    add("--queries", type=int, help="default: 1,000")
    add("--documents", type=int, help="default: 512")
    add("--rounds", type=int, help="of the timing; default: 3, of a rehearsal 1")
    add("--query-batch", type=int, default=1024, help="of stock class and loop")
    add("--document-batch", type=int, default=256, help="of stock class and loop")
    add("--work", type=Path, help="for models on disk; default: where there is most room")
    return made


def make_setting(options: argparse.Namespace, work: Path) -> Setting:
    """Return what the sections measure with."""
    shape = TINY if options.rehearse else MISTRAL_7B
    queries = options.queries or (4 if options.rehearse else 1000)
    documents = options.documents or (2 if options.rehearse else 512)
    calibration = 2 if options.rehearse else 64

    def drawn(count: int, tokens: tuple[int, int], seed: int) -> list[str]:
        return make_texts(count, *tokens, vocabulary=shape.vocabulary, seed=seed)

    return Setting(
        shape=shape,
        small=SMALLEST if options.rehearse else SMALL,
        longest=16 if options.rehearse else 96,
        device="cpu" if options.rehearse else "cuda",
        work=work,
        texts={
            "queries": drawn(queries, QUERY_TOKENS, 1),
            "documents": drawn(documents, DOCUMENT_TOKENS, 2),
        },
        calibration=drawn(calibration, (128, 128), 4),
        rounds=options.rounds or (1 if options.rehearse else 3),
        batch_tokens=512 if options.rehearse else None,
        batches={"queries": options.query_batch, "documents": options.document_batch},
        # a CPU would spend its minute on one kernel
        backend="eager" if options.rehearse else "inductor",
    )


def roomy_folder() -> Path:
    """Return the folder for temporary files with most room, be it memory or disk."""
    places = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    return max(filter(Path.is_dir, places), key=lambda place: shutil.disk_usage(place).free)


def describe(setting: Setting, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Return what the JSON file and the page say of the machine and of what is measured."""
    cuda = setting.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else "CPU"
    today, found = date.today().isoformat(), environment()
    shape: Shape = setting.shape
    head = {
        "device": name,
        "cuda": torch.version.cuda,
        "date": today,
        "environment": found,
        "rehearsal": options.rehearse,
        "shape": vars(shape),
        "rounds": setting.rounds,
        "texts": {kind: len(texts) for kind, texts in setting.texts.items()},
        "batches": dict(setting.batches),
    }
    versions = ", ".join(f"{package} {version}" for package, version in found.items())
    count = {kind: f"{len(texts):,}" for kind, texts in setting.texts.items()}
    lines = [
        f"# On {name}" + (" (a rehearsal: its figures mean nothing)" if options.rehearse else ""),
        f"{today}; CUDA {torch.version.cuda}, {versions}.",
        f"A random model in the shape of {shape.name}: {shape.layers} layers, hidden size "
        f"{shape.hidden:,}, {shape.intermediate:,} MLP neurons, {shape.heads} heads, "
        f"{shape.kv_heads} of keys and values, {shape.vocabulary:,} words; last-token pooling, "
        f"EOS. {count['queries']} queries of {QUERY_TOKENS[0]} to {QUERY_TOKENS[1]} tokens and "
        f"{count['documents']} documents of {DOCUMENT_TOKENS[0]} to {DOCUMENT_TOKENS[1]}, drawn "
        f"evenly. Timed {setting.rounds} times. Stock class and loop take "
        f"{setting.batches['queries']:,} queries or {setting.batches['documents']:,} documents a "
        "batch.",
    ]
    return head, lines


def slug(device: str) -> str:
    """Return a device's name as part of a file's."""
    words = "".join(letter if letter.isalnum() else " " for letter in device.lower())
    return "-".join(words.split())


def run(options: argparse.Namespace) -> Results:
    """Run all sections that fit into the time, and return what they found."""
    clock = Clock(options.minutes)
    gc.freeze()  # garbage is collected between timings, and not among all that was imported
    torch.set_float32_matmul_precision("highest")
    with tempfile.TemporaryDirectory(dir=options.work or roomy_folder()) as work, clock.running():
        setting = make_setting(options, Path(work))
        head, lines = describe(setting, options)
        print("\n\n".join(lines), flush=True)
        options.out.mkdir(parents=True, exist_ok=True)
        results = Results(options.out, f"gpu-{slug(head['device'])}", head, lines)
        for section in SECTIONS:
            if section.name not in options.sections:
                continue
            results.begin(section)
            if clock.left < LEAST_SECONDS:
                results.note(f"Left out: {max(clock.left, 0):.0f} s were left.")
                continue
            try:
                with clock.at_most(section.seconds * options.minutes / 8):
                    section.run(setting, results, clock)
            except OutOfTime:
                results.note("Cut here: its time was over.")
            except Exception as error:
                traceback.print_exc()
                results.fail(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            free()
            results.write()
    gc.unfreeze()
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    options = parser().parse_args(arguments)
    errors.quiet_libraries()
    disable_progress_bar()
    if not options.rehearse and not torch.cuda.is_available():
        sys.exit("there is no CUDA device; --rehearse shows on the CPU that all runs")
    results = run(options)
    print(f"\nwritten: {results.json} and {results.page}")
    if results.failures:
        sys.exit("\n".join(["failed:", *results.failures]))


if __name__ == "__main__":
    main()
