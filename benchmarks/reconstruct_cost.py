"""What `reconstruct` costs, in forward passes over the same texts.

One row a depth: one forward pass, the products and the solves that fitting takes, and the whole
call. `--before` times the same call with the package of another checkout, in the same run.

    python benchmarks/reconstruct_cost.py --model FOLDER --layers 6 12 30
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.encoder import token_batches, transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.families import find
from effir_integrations.pruning.config import ReconstructConfig
from effir_integrations.pruning.methods import Reconstruct
from effir_integrations.pruning.moments import Moments
from effir_integrations.pruning.reconstruct import reconstruct

_PARTS: dict[str, list[tuple[Any, str]]] = {
    "products": [(Moments, "add")],
    "solves": [(Moments, "fit"), (Reconstruct, "removal")],
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name")
    parser.add_argument("--texts", type=int, default=256, help="shipped calibration texts")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the neurons that stays")
    parser.add_argument("--layers", type=int, nargs="+", help="cut the model to so many layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="times; medians are printed")
    parser.add_argument("--before", type=Path, help="checkout of another version, timed as well")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--whole-only", action="store_true", help="print the seconds of each call")
    return parser.parse_args()


@contextmanager
def timed(parts: dict[str, float]) -> Iterator[None]:
    """Add the seconds spent in the methods of `_PARTS` to `parts`."""
    own = [(kind, name, getattr(kind, name)) for places in _PARTS.values() for kind, name in places]

    def wrapped(part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                parts[part] += time.perf_counter() - start

        return call

    try:
        for part, places in _PARTS.items():
            parts[part] = 0.0
            for kind, name in places:
                setattr(kind, name, wrapped(part, getattr(kind, name)))
        yield
    finally:
        for kind, name, method in own:
            setattr(kind, name, method)


def encoder_of(options: argparse.Namespace, layers: int | None) -> Any:
    """Load the model, cut to its first layers."""
    encoder = load(options.model, device="cpu", dtype="fp32")
    model: Any = transformer_model(encoder)
    if layers is not None:
        path = find(model.config).layers
        owner, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(owner), leaf, model.get_submodule(path)[:layers])
        model.config.num_hidden_layers = layers
    return encoder


def row(options: argparse.Namespace, layers: int | None) -> dict[str, float]:
    """Return the seconds of one forward pass, of the parts and of the whole, and their ratio."""
    encoder = encoder_of(options, layers)
    texts = load_calibration(None, limit=options.texts, seed=0)
    config = ReconstructConfig(keep_neurons=options.keep)
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in token_batches(encoder, texts.texts, batch_tokens=config.batch_tokens):
            encoder[0](batch)
    found = {"forward": time.perf_counter() - start}
    with timed(found):
        start = time.perf_counter()
        reconstruct(encoder, texts, config)
        found["whole"] = time.perf_counter() - start
    rest = found["whole"] - found["products"] - found["solves"]
    return {**found, "passes": rest / found["forward"]}


def whole(options: argparse.Namespace) -> None:
    """Print the seconds of one call; this is what another checkout's package is asked for."""
    for layers in options.layers or [None]:
        encoder = encoder_of(options, layers)
        texts = load_calibration(None, limit=options.texts, seed=0)
        start = time.perf_counter()
        reconstruct(encoder, texts, ReconstructConfig(keep_neurons=options.keep))
        print(json.dumps(time.perf_counter() - start), flush=True)


def before(options: argparse.Namespace, layers: int | None) -> float:
    """Return the seconds of the same call with the package of another checkout."""
    command = [sys.executable, __file__, "--whole-only", "--model", options.model]
    command += ["--texts", str(options.texts), "--keep", str(options.keep)]
    command += ["--threads", str(options.threads)]
    command += [] if layers is None else ["--layers", str(layers)]
    environment = {**os.environ, "PYTHONPATH": str(options.before)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure every depth and print a table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.whole_only:
        whole(options)
        return
    rows = []
    for layers in options.layers or [None]:
        runs = [row(options, layers) for _ in range(options.repeat)]
        found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        if options.before:
            found["before"] = before(options, layers)
            found["of_before"] = found["whole"] / found["before"]
        rows.append({"layers": layers, **{name: round(x, 3) for name, x in found.items()}})
        print(" | ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    record = {
        "model": Path(options.model).name,
        "texts": options.texts,
        "keep": options.keep,
        "threads": options.threads,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
