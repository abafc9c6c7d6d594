"""Measure dropping half of the MLPs of a 4.4 GB checkpoint on disk: peak memory, and time.

A Mistral-shaped checkpoint of random bf16 weights is written in shards of 1 GB. A fresh process
drops 16 of its 32 MLPs, and another lets `cp` copy a file of exactly the size that was kept, in
turn and in alternating order. Both do the same imports first, find their source in the page cache,
start right after `sync`, and do not call fsync; what they wrote is removed before the next starts.

    python benchmarks/from_disk.py [--folder FOLDER] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from effir_integrations import mini_path

SHARD_BYTES = 1_000_000_000
BLOCK = 1 << 24
REFITTED = 2
"""MLPs that `--reconstruct` narrows."""


def main() -> None:
    """Run the parts that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=9216)
    parser.add_argument(
        "--reconstruct", action="store_true", help="memory of `reconstruct` instead"
    )
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        name, source, target = options.step
        print(json.dumps(STEPS[name](Path(source), Path(target))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="effir-from-disk-") as folder:
        source = Path(folder) / "base"
        make_checkpoint(source, options.layers, options.hidden, options.intermediate)
        if options.reconstruct:
            measure_reconstruct(source)
            return
        compare(source, Path(folder), options.repeats)


def make_checkpoint(folder: Path, layers: int, hidden: int, intermediate: int) -> None:
    """Write a Mistral of random bf16 weights, 16 MB at a time."""
    import numpy as np
    import torch
    from transformers import MistralConfig, MistralModel

    from effir_integrations.model.shards import PlannedTensor, lay_out, side_files

    config = MistralConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 256,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in MistralModel(config).state_dict().items()}
    tensors = (PlannedTensor(name=name, dtype="BF16", shape=x) for name, x in shapes.items())
    shards = lay_out(tensors, SHARD_BYTES)
    folder.mkdir()
    config.save_pretrained(folder)
    random = np.random.default_rng(0)
    for shard in shards:
        with (folder / shard.name).open("wb") as file:
            file.write(shard.header)
            left = sum(tensor.nbytes for tensor in shard.tensors)
            while left:
                count = min(left, BLOCK)
                bits = np.frombuffer(random.bytes(count), np.uint16)
                # sign and mantissa are random, the exponent is that of 1/128
                file.write((bits & np.uint16(0x807F) | np.uint16(0x3C00)).data)
                left -= count
    for name, content in side_files(shards).items():
        (folder / name).write_bytes(content)


def rewrite(source: Path, target: Path) -> dict[str, float]:
    """Drop the second half of the MLPs and say what it took."""
    from effir_integrations.model.plan import PruningPlan
    from effir_integrations.model.rewrite import identity_on_disk, rewrite_checkpoint

    after_imports = peak_bytes()
    start = time.perf_counter()
    base = identity_on_disk(source)
    identity = time.perf_counter() - start
    plan = PruningPlan(base=base, drop_mlp=tuple(range(base.layers // 2, base.layers)))
    target.mkdir()
    os.sync()
    start, cpu = time.perf_counter(), time.process_time()
    rewrite_checkpoint(source, plan, target, shard_bytes=10**12)
    return {
        "identity": identity,
        "rewrite": time.perf_counter() - start,
        "rewrite_cpu": time.process_time() - cpu,
        "peak_after_imports": after_imports,
        "peak": peak_bytes(),
    }


def copy(source: Path, target: Path) -> dict[str, float]:
    """Copy a file with `cp` and say what it took, after the imports that `rewrite` does."""
    import effir_integrations.model.rewrite  # noqa: F401

    os.sync()
    start = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cp": seconds, "cp_cpu": used.ru_utime + used.ru_stime}


def reconstruct(source: Path, target: Path) -> dict[str, float]:
    """Keep half of the neurons of the first MLPs, all others dropped; texts are few and short.

    What is held at a time is one layer, its Gram matrix and its inverse, however many follow.
    """
    from effir_integrations.data.calibration import load_calibration
    from effir_integrations.encoder.encoder import transformer_model
    from effir_integrations.encoder.loading import load
    from effir_integrations.model.identity import BaseIdentity
    from effir_integrations.model.plan import PruningPlan
    from effir_integrations.pruning.config import ReconstructConfig
    from effir_integrations.pruning.reconstruct import reconstruct

    after_imports = peak_bytes()
    encoder = load(source, device="cpu", from_disk=True)
    base = BaseIdentity.of(transformer_model(encoder))
    plan = PruningPlan(base=base, drop_mlp=tuple(range(REFITTED, base.layers)))
    config = ReconstructConfig(keep_neurons=0.5, max_length=32)
    start = time.perf_counter()
    reconstruct(encoder, load_calibration(None, limit=16, seed=0), config, plan=plan)
    seconds = time.perf_counter() - start
    return {"reconstruct": seconds, "peak_after_imports": after_imports, "peak": peak_bytes()}


STEPS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "rewrite": rewrite,
    "copy": copy,
    "reconstruct": reconstruct,
}


def peak_bytes() -> int:
    """Return this process's largest resident size; `ru_maxrss` would count its parent's as well."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def compare(source: Path, folder: Path, repeats: int) -> None:
    """Rewrite and copy in turn, and print the table."""
    weights = sorted(source.glob("*.safetensors"))
    print(f"source: {sum(x.stat().st_size for x in weights) / 1e9:.2f} GB, {len(weights)} shards")
    kept = folder / "kept"
    in_fresh_process("rewrite", source, kept)  # makes the file that is copied
    sources = {"rewrite": source, "copy": kept / "model.safetensors"}
    runs: list[dict[str, float]] = []
    for repeat in range(repeats):
        measured: dict[str, float] = {}
        for step in sorted(sources, reverse=repeat % 2 == 0):
            warm([*weights, sources["copy"]])
            measured |= in_fresh_process(step, sources[step], folder / step)
            remove(folder / step)
        runs.append(measured)
        print(f"run {repeat + 1}: rewrite {measured['rewrite']:.2f} s, cp {measured['cp']:.2f} s")
    kept_bytes = (kept / "model.safetensors").stat().st_size
    print(f"kept: {kept_bytes / 1e9:.2f} GB in one file, no fsync on either side")
    print(f"peak memory: {max(run['peak'] for run in runs) / 1e6:,.0f} MB, of which")
    print(f"  after imports: {max(run['peak_after_imports'] for run in runs) / 1e6:,.0f} MB")
    for name in ("identity", "rewrite", "cp", "rewrite_cpu", "cp_cpu"):
        print(f"{name}: {spread([run[name] for run in runs])} s")
    for suffix, what in (("", "elapsed"), ("_cpu", "processor time")):
        ratios = [run[f"rewrite{suffix}"] / run[f"cp{suffix}"] for run in runs]
        print(f"rewrite / cp, {what}: {spread(ratios)}")


def measure_reconstruct(source: Path) -> None:
    """Reconstruct with layers on disk in a fresh process, and print the peak of its memory."""
    for file in Path(mini_path()).glob("*token*"):
        shutil.copy(file, source)
    weights = sorted(source.glob("*.safetensors"))
    print(f"source: {sum(x.stat().st_size for x in weights) / 1e9:.2f} GB, {len(weights)} shards")
    run = in_fresh_process("reconstruct", source, source)
    print(f"peak memory: {run['peak'] / 1e6:,.0f} MB, of which")
    print(f"  after imports: {run['peak_after_imports'] / 1e6:,.0f} MB")
    print(f"reconstruct of {REFITTED} MLPs: {run['reconstruct']:.0f} s")


def warm(files: list[Path]) -> None:
    """Bring files into the page cache."""
    buffer = bytearray(BLOCK)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def in_fresh_process(step: str, source: Path, target: Path) -> dict[str, float]:
    """Run one of `STEPS` in a process of its own."""
    command = [sys.executable, __file__, "--step", step, str(source), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def spread(values: list[float]) -> str:
    """Format the median with the lowest and highest value."""
    return f"{statistics.median(values):.2f} (from {min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
