"""Whether two checkouts give the same: vectors, plans, written weights and rankings, bit for bit.

Each model is analysed, compressed, encoded with and searched in a process of its own for each
checkout, on one thread; what comes out is hashed, and the hashes are laid side by side. Versions,
paths and times are left out of what is hashed.

    python benchmarks/same_results.py BEFORE AFTER --models effir-mini minilm --data scifact
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_TEXTS = [f"{word} text number {number} " * (number % 7 + 1)
          for number in range(48) for word in ("a short", "another")]  # fmt: skip
_PASSING = {"versions", "name", "base", "source", "seconds", "revision"}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _lasting(content: Any) -> Any:
    """Return JSON without what differs from run to run."""
    if isinstance(content, dict):
        return {k: _lasting(v) for k, v in content.items() if k not in _PASSING or k == "neurons"}
    return [_lasting(x) for x in content] if isinstance(content, list) else content


def _results(model: str, data: str | None, work: Path) -> dict[str, str]:
    """Return what one checkout makes of a model, as hashes."""
    import torch

    torch.set_num_threads(1)
    from effir_integrations import CompressConfig, compress, evaluate, load

    encoder = load(model, device="cpu")
    found = {"vectors": _digest(encoder.encode(_TEXTS).tobytes())}
    for name, config in {
        "dropped": CompressConfig(drop_mlp=2, calibration_texts=32),
        "refitted": CompressConfig(keep_neurons=0.5, calibration_texts=32),
        "both": CompressConfig(drop_mlp=1, drop_attention=1, keep_neurons=0.5, method="mean"),
    }.items():
        made = compress(model, work / name, config)
        if made.report is not None:
            scores = (made.report.attention, made.report.mlp, made.report.block)
            found[f"{name}: importance"] = _digest(repr(scores).encode())
        made.plan.save(work / f"{name}-plan")
        for path in sorted((work / f"{name}-plan").iterdir()):
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(_lasting(json.loads(content))).encode()
            found[f"{name}: {path.name}"] = _digest(content)
        found[f"{name}: weights"] = _digest((work / name / "model.safetensors").read_bytes())
        found[f"{name}: vectors"] = _digest(made.encoder.encode(_TEXTS).tobytes())
    if data is not None:
        run = work / "run.trec"
        evaluate(load(work / "both", device="cpu"), data, run_path=run, max_length=96)
        found["run file"] = _digest(run.read_bytes())
    return found


def _in_checkout(checkout: Path, model: str, data: str | None) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, os.path.abspath(__file__), "--inside", model, *([data] if data else [])]
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            line, env=environment, cwd=elsewhere, check=True, stdout=subprocess.PIPE, text=True
        )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Compare two checkouts, or print what one of them gives."""
    if sys.argv[1:2] == ["--inside"]:
        model, data = sys.argv[2], sys.argv[3] if sys.argv[3:] else None
        with tempfile.TemporaryDirectory() as work:
            print(json.dumps(_results(model, data, Path(work))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--models", nargs="+", default=["effir-mini"], help="or minilm")
    parser.add_argument("--data", help="BEIR folder to rank with the smallest model")
    options = parser.parse_args()
    data = options.data and str(Path(options.data).resolve())
    differing = 0
    for model in options.models:
        place = model
        if model == "minilm":
            from minilm import minilm

            place = str(minilm())
        before, after = (
            _in_checkout(x.resolve(), place, data) for x in (options.before, options.after)
        )
        for name in sorted(before | after):
            same = before.get(name) == after.get(name)
            differing += not same
            print(f"{model:12} {name:32} {before.get(name)} {'=' if same else '!='} "
                  f"{after.get(name)}", flush=True)  # fmt: skip
    print(f"{differing} differ")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
