"""What `analyze` costs: time against a plain forward pass, and memory against the number of texts.

    python benchmarks/analyze.py --dtype bf16
    python benchmarks/analyze.py --decoder --texts 64

Time: both read the same texts in the same batches through the same encoder, in turns, in one
process. On a machine that is shared, set OMP_WAIT_POLICY=PASSIVE: else every small operation waits
for a thread that another process has displaced, in the plain pass as in the other.

Memory: peak resident memory of a fresh process each, for the 256 texts of the sample and for 2,560:
the sample ten times over, with an index word put in front so that no text repeats. glibc moves
tensors of up to 32 MB into its heap, where batches of ever new sizes leave holes: hundreds of MB,
another number every run, in the plain pass as well. So the threshold is fixed at 1 MB, and the
peak is what is in use; --system-malloc leaves it as it is, --memory-pass plain measures the plain
pass.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from minilm import MINILM_HELP, minilm
from sentence_transformers import SentenceTransformer

from effir_integrations.data.calibration import Calibration, load_calibration
from effir_integrations.encoder.encoder import token_batches
from effir_integrations.encoder.loading import load
from effir_integrations.pruning.analyze import analyze

TIME_TARGET = 1.15
MEMORY_TARGET = 50.0


def main() -> None:
    """Print both tables."""
    arguments = parse()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        name = arguments.model or minilm()
        if arguments.decoder:
            name = small_decoder(Path(scratch))
        if arguments.memory_of:
            print(peak_memory(name, arguments))
            return
        encoder = load(name, dtype=arguments.dtype, device=arguments.device)
        print(
            f"{'random decoder' if arguments.decoder else name}, {arguments.dtype}, "
            f"{encoder.device}, {torch.get_num_threads()} threads"
        )
        if not arguments.skip_times:
            print_times(encoder, arguments)
        if not arguments.skip_memory:
            print_memory(arguments)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help=MINILM_HELP)
    parser.add_argument("--decoder", action="store_true", help="a small random Qwen3 instead")
    parser.add_argument("--dtype", default="fp32", help="fp32, bf16 or fp16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=int, default=256, help="texts that are timed, up to 256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--skip-times", action="store_true")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--memory-pass", choices=("analyze", "plain"), default="analyze")
    parser.add_argument("--system-malloc", action="store_true")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def small_decoder(folder: Path) -> str:
    """Write a random decoder of 28 million parameters with the tokenizer of MiniLM."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
    )
    Qwen3Model(config).save_pretrained(folder)
    return str(folder)


def numbered_sample(count: int) -> Calibration:
    """Return `count` texts: the sample, and over again with an index word in front."""
    sample = load_calibration().texts
    texts = tuple(
        sample[index] if index < len(sample) else f"{index // len(sample)} {sample[index % 256]}"
        for index in range(count)
    )
    return Calibration(texts=texts, source=f"sample, {count} texts")


def plain_pass(encoder: SentenceTransformer, texts: Sequence[str], batch_tokens: int) -> None:
    """Run every text through the transformer, and keep nothing."""
    with torch.inference_mode():
        for batch in token_batches(encoder, texts, batch_tokens=batch_tokens):
            encoder[0](batch)


def print_times(encoder: SentenceTransformer, arguments: argparse.Namespace) -> None:
    """Time both in turns and print medians, and the ratio of every round."""
    calibration = numbered_sample(arguments.texts)
    size = arguments.batch_tokens
    passes: dict[str, Callable[[], object]] = {
        "plain forward": lambda: plain_pass(encoder, calibration.texts, size),
        "analyze": lambda: analyze(encoder, calibration, batch_tokens=size),
    }
    wall: dict[str, list[float]] = {name: [] for name in passes}
    cpu: dict[str, list[float]] = {name: [] for name in passes}
    for run in passes.values():
        run()
    for turn in range(arguments.rounds):
        for name in list(passes)[:: 1 if turn % 2 == 0 else -1]:
            started, spent = time.perf_counter(), time.process_time()
            passes[name]()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - spent)
    print(f"\n{arguments.texts} texts, {arguments.rounds} rounds in turns")
    print(f"{'':24}{'plain forward':>15}{'analyze':>10}   ratio, median (lowest to highest)")
    for label, seconds in (("wall seconds, median", wall), ("CPU seconds, median", cpu)):
        plain, ours = seconds["plain forward"], seconds["analyze"]
        ratios = sorted(b / a for a, b in zip(plain, ours, strict=True))
        print(
            f"{label:24}{statistics.median(plain):15.2f}{statistics.median(ours):10.2f}   "
            f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), "
            f"target {TIME_TARGET}"
        )


def print_memory(arguments: argparse.Namespace) -> None:
    """Measure both counts in a fresh process each and print peaks and difference."""
    peaks = []
    fixed = {} if arguments.system_malloc else {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    print(f"\npeak memory of a fresh process, {arguments.memory_pass}, MB")
    for count in (256, 2560):
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", str(count)]
        output = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **fixed}
        ).stdout
        peaks.append(float(output.split()[-1]))
        print(f"{count:6d} texts {peaks[-1]:10.1f}")
    print(f"   difference {peaks[1] - peaks[0]:8.1f}, target < {MEMORY_TARGET:g}")


def peak_memory(name: str, arguments: argparse.Namespace) -> float:
    """Run one pass in this process and return its peak resident memory, MB."""
    encoder = load(name, dtype=arguments.dtype, device=arguments.device)
    calibration = numbered_sample(arguments.memory_of)
    if arguments.memory_pass == "plain":
        plain_pass(encoder, calibration.texts, arguments.batch_tokens)
    else:
        analyze(encoder, calibration, batch_tokens=arguments.batch_tokens)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
