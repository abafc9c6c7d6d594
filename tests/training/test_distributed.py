"""Two processes on one batch are one process on that batch."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fresh
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny import WORDS, save_bare

import effir_integrations  # noqa: F401 - registers the pruned types

SCRIPT = Path(__file__).with_name("two_processes.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def one_process(*line: object) -> None:
    done = fresh.run(line)
    assert done.returncode == 0, done.stderr[-3000:]


def two_processes(*line: object) -> None:
    """Tell two processes what a launcher tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ranks = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
        ranks.append(fresh.Fresh(line, env={**os.environ, **shared, **own}))
    assert [process.wait(300) for process in ranks] == [0, 0], ranks[0].stderr[-3000:]


def launched(*line: object) -> None:
    """Let torchrun start two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, *TORCHRUN, *map(str, line)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


in_two = pytest.mark.parametrize(
    "in_two", [two_processes, pytest.param(launched, marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_bare("qwen3", tmp_path_factory.mktemp("base") / "tiny-qwen3")


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    generator = random.Random(0)

    def text() -> str:
        return " ".join(generator.choice(WORDS) for _ in range(6))

    rows = [{"query": text(), "pos": [text()], "neg": [text(), text()]} for _ in range(32)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@in_two
@pytest.mark.parametrize("mini_batch_size", [0, 3])
def test_gradients_of_two_processes_equal_those_of_one(
    base: Path, tmp_path: Path, mini_batch_size: int, in_two: Callable[..., None]
) -> None:
    one_process(SCRIPT, base, tmp_path / "one", mini_batch_size)
    in_two(SCRIPT, base, tmp_path / "two", mini_batch_size)
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) > 40
    for name, expected in one.items():
        # sums over the batch are taken in another order
        torch.testing.assert_close(two[name], expected, atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max() for name, gradient in one.items()) > 0.01


@in_two
def test_a_launched_run_ends_where_a_single_process_does(
    base: Path, train: Path, tmp_path: Path, in_two: Callable[..., None]
) -> None:
    settings = ["--train", train, "--negatives", 2, "--batch-size", 8, "--steps", 6, "--rank", 4]
    settings += ["--learning-rate", 1e-2, "--precision", "fp32", "--quiet"]
    verb = ("-m", "effir_integrations.cli", "finetune", base)
    one_process(*verb, tmp_path / "one", *settings)
    in_two(*verb, tmp_path / "two", *settings)
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w10"]
    one, two = (
        SentenceTransformer(str(tmp_path / name)).encode(texts, convert_to_tensor=True)
        for name in ("one", "two")
    )
    untrained = effir_integrations.load(base).encode(texts, convert_to_tensor=True)
    assert (one - untrained).abs().max() > 0.01
    # Adam divides by the gradient's size, so rounding in tiny ones is seen
    torch.testing.assert_close(two, one, atol=2e-3, rtol=0)
    histories = [
        json.loads((tmp_path / name / "effir.json").read_text())["made_by"][-1]["log"]
        for name in ("one", "two")
    ]
    losses = [[entry["loss"] for entry in log] for log in histories]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
