"""Training resumes from exactly the files that it wrote, or says which of them are not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from examples import examples, tiny_encoder

from effir_integrations.data.calibration import load_calibration
from effir_integrations.training import distill as distill_module
from effir_integrations.training import heal
from effir_integrations.training.config import DistillConfig, FinetuneConfig
from effir_integrations.training.distill import distill
from effir_integrations.training.finetune import finetune

FINETUNE = FinetuneConfig(steps=4, batch_size=4, rank=4, save_steps=2)
DISTILL = DistillConfig(steps=2, batch_size=4)
TEXTS = load_calibration([f"w{x} w{x + 1} w{2 * x}" for x in range(1, 25)])
WRITTEN = (
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trained.safetensors",
    "trainer_state.json",
)


def interrupted(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a fine-tuning was killed behind its last checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(heal, "save", interrupted)
        finetune(tiny_encoder("bert", folder), examples(), FINETUNE, folder / "out")
    assert (folder / "out.training" / "checkpoint-4").is_dir()
    return folder


@pytest.fixture
def folder(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "copy"))


def go_on(folder: Path) -> None:
    finetune(tiny_encoder("bert", folder), examples(), FINETUNE, folder / "out")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_checkpoint_lists_all_of_its_files(folder: Path) -> None:
    found = {path.name for path in (folder / "out.training" / "checkpoint-4").iterdir()}
    assert found == {*WRITTEN, "whole.json"}
    go_on(folder)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(
    ("damage", "why"),
    [(Path.unlink, "is missing"), (cut, "bytes, not"), (change, "holds other bytes")],
)
def test_a_checkpoint_whose_files_changed_is_refused(
    damage: Any, why: str, name: str, folder: Path
) -> None:
    damage(folder / "out.training" / "checkpoint-4" / name)
    with pytest.raises(ValueError, match=rf"checkpoint-4/{name} .*{why}.*--force"):
        go_on(folder)
    assert not (folder / "out").exists()


def test_checkpoints_of_an_unknown_run_are_refused(folder: Path) -> None:
    (folder / "out.training" / "training.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-4 but no training\.json.*--force"):
        go_on(folder)


def test_teacher_vectors_that_changed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_encoder("bert", tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(distill_module, "train", interrupted)
        distill(tiny_encoder("bert", tmp_path), teacher, TEXTS, DISTILL, tmp_path / "out")
    written = tmp_path / "out.training" / "teacher.arrow"
    content = written.read_bytes()
    for damage, why in ((cut, "bytes, not"), (change, "holds other"), (Path.unlink, "is missing")):
        damage(written)
        with pytest.raises(ValueError, match=rf"teacher\.arrow .*{why}.*--force"):
            distill(tiny_encoder("bert", tmp_path), teacher, TEXTS, DISTILL, tmp_path / "out")
        written.write_bytes(content)


def test_a_shorter_file_of_teacher_vectors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_encoder("bert", tmp_path)
    fewer = load_calibration(list(TEXTS.texts[:8]))
    for texts, out in ((TEXTS, "out"), (fewer, "other")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(distill_module, "train", interrupted)
            distill(tiny_encoder("bert", tmp_path), teacher, texts, DISTILL, tmp_path / out)
    other, own = (tmp_path / f"{out}.training" / "teacher.arrow" for out in ("other", "out"))
    shutil.copy(other, own)
    with pytest.raises(ValueError, match=r"teacher\.arrow has .* bytes, not"):
        distill(tiny_encoder("bert", tmp_path), teacher, TEXTS, DISTILL, tmp_path / "out")
