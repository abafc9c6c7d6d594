"""Training that is killed resumes exactly, and never passes half a result off as a whole one."""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import fresh
import pytest
import torch
from examples import examples, tiny_encoder
from tiny import save_bare

from effir_integrations import load
from effir_integrations.files import file_sha256
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.export import export
from effir_integrations.pruning.slim import slim
from effir_integrations.pruning.slim_config import SlimConfig
from effir_integrations.training.checkpoints import last_checkpoint
from effir_integrations.training.config import DistillConfig, FinetuneConfig
from effir_integrations.training.distill import distill
from effir_integrations.training.finetune import finetune
from effir_integrations.training.heal import work_folder

SLIM = SlimConfig(paper=True, steps=8, batch_size=4, multiple_of=4, sparsity=0.4, save_steps=2)
FINETUNE = FinetuneConfig(steps=8, batch_size=4, rank=4, adapter_dropout=0.1, save_steps=2)
RESULTS = ("gates.safetensors", "plan.json", "neurons.safetensors", "model.safetensors")


def run_stages(folder: Path) -> None:
    """Slim, export and fine-tune, as often as it takes."""
    torch.set_num_threads(1)
    data = examples(count=24, negatives=2)
    if not (folder / "run" / "plan.json").is_file():
        plan = slim(load(folder / "base"), data, SLIM, folder / "run")
        plan.save(folder / "run")
    if not (folder / "sliced" / "config.json").is_file():
        export(load(folder / "base"), PruningPlan.load(folder / "run"), folder / "sliced")
    finetune(load(folder / "sliced"), data, FINETUNE, folder / "model")


def results(folder: Path) -> dict[str, str]:
    found = {path.name: file_sha256(path) for path in (folder / "run").glob("*") if path.is_file()}
    found |= {x.name: file_sha256(x) for x in (folder / "model").glob("*.safetensors")}
    history = json.loads((folder / "model" / "effir.json").read_text())
    found["log"] = json.dumps(history["made_by"][-1])
    found["left"] = " ".join(sorted(path.name for path in folder.iterdir()))
    return found


def is_like(found: dict[str, str], expected: dict[str, str]) -> None:
    different = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
    assert not different, f"{different} differ from an unbroken run's"


FEW = [0.15, 0.45, 0.3, 0.75, 0.9]
"""Shares of an unbroken run's time: in either stage, and before, at and after a checkpoint."""
MANY = [random.Random(number).uniform(0.1, 1.0) for number in range(20)]


@pytest.mark.parametrize(
    "moments", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_runs_killed_at_any_moment_end_as_an_unbroken_one(
    moments: list[float], tmp_path: Path
) -> None:
    # one base for all runs: its path is in every history
    def new() -> Path:
        folder = tmp_path / "work"
        if folder.exists():
            folder.rename(tmp_path / f"done-{time.monotonic_ns()}")
        save_bare("bert", folder / "base")
        return folder

    fresh.run(["-c", ""])  # starts what forks the others
    folder = new()
    begun = time.monotonic()
    fresh.run([__file__, folder], check=True)
    needed = time.monotonic() - begun
    expected = results(folder)
    assert expected.keys() >= set(RESULTS)
    folder = new()
    for share in moments:
        process = fresh.Fresh([__file__, folder])
        time.sleep(share * needed)
        if process.poll() is None:
            process.kill()
            whole = (folder / "model").exists()
            assert not whole or (folder / "model" / "effir.json").is_file()
        else:
            assert process.returncode == 0, process.stderr
            is_like(results(folder), expected)
            folder = new()
    fresh.run([__file__, folder], check=True)
    is_like(results(folder), expected)


def test_a_finished_stage_is_not_repeated(tmp_path: Path) -> None:
    tiny_encoder("bert", tmp_path)
    data = examples()
    finetune(tiny_encoder("bert", tmp_path), data, FINETUNE, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert not work_folder(tmp_path / "out").exists()
    finetune(tiny_encoder("bert", tmp_path), data, FINETUNE, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    other = replace(FINETUNE, learning_rate=5e-4)
    with pytest.raises(FileExistsError, match="not empty"):
        finetune(tiny_encoder("bert", tmp_path), data, other, tmp_path / "out")
    finetune(tiny_encoder("bert", tmp_path), data, other, tmp_path / "out", force=True)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns != before


def test_a_bad_loss_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    encoder = tiny_encoder("bert", tmp_path)
    config = replace(FINETUNE, learning_rate=1e30, warmup=0.0, trains="all", save_steps=1)
    with pytest.raises(RuntimeError, match=r"at step \d+|after step \d+") as error:
        finetune(encoder, examples(), config, tmp_path / "out")
    assert "lower the learning rate" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_nan_loss_in_the_middle_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_integrations.training import losses

    honest, calls = losses.info_nce, []

    def poisoned(*arguments):
        calls.append(1)
        return honest(*arguments) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(losses, "info_nce", poisoned)
    with pytest.raises(RuntimeError, match="the loss is nan at step 6; the last good checkpoint"):
        finetune(tiny_encoder("bert", tmp_path), examples(), FINETUNE, tmp_path / "out")
    assert last_checkpoint(work_folder(tmp_path / "out")).name == "checkpoint-4"
    monkeypatch.setattr(losses, "info_nce", honest)
    finetune(tiny_encoder("bert", tmp_path), examples(), FINETUNE, tmp_path / "out")
    finetune(tiny_encoder("bert", tmp_path), examples(), FINETUNE, tmp_path / "unbroken")
    weights = [file_sha256(tmp_path / x / "model.safetensors") for x in ("out", "unbroken")]
    assert weights[0] == weights[1]


def test_resuming_with_other_settings_or_data_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_integrations.training import losses

    honest = losses.info_nce
    monkeypatch.setattr(losses, "info_nce", lambda *x: honest(*x) * float("nan"))
    with pytest.raises(RuntimeError, match="there is no checkpoint yet"):
        finetune(tiny_encoder("bert", tmp_path), examples(), FINETUNE, tmp_path / "out")
    monkeypatch.setattr(losses, "info_nce", honest)
    other = replace(FINETUNE, batch_size=6, temperature=0.05)
    with pytest.raises(ValueError, match=r"batch_size 4 then, 6 now.*temperature 0\.02 then"):
        finetune(tiny_encoder("bert", tmp_path), examples(), other, tmp_path / "out")
    with pytest.raises(ValueError, match=r"examples 24 then, 20 now"):
        finetune(tiny_encoder("bert", tmp_path), examples(20), FINETUNE, tmp_path / "out")
    quicker = replace(FINETUNE, save_steps=5)
    finetune(tiny_encoder("bert", tmp_path), examples(), quicker, tmp_path / "out")


def test_a_killed_distillation_asks_its_teacher_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_integrations.data.calibration import load_calibration
    from effir_integrations.training import distill as module

    texts = load_calibration([f"w{x} w{x + 1} w{2 * x}" for x in range(1, 25)])
    config = DistillConfig(steps=6, batch_size=4, save_steps=2)
    teacher = tiny_encoder("bert", tmp_path)
    honest = module.train

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill(tiny_encoder("bert", tmp_path), teacher, texts, config, tmp_path / "out")
    written = work_folder(tmp_path / "out") / module.TEACHER_FILE
    before = written.stat().st_mtime_ns
    monkeypatch.setattr(module, "train", honest)
    monkeypatch.setattr(module, "_rows", interrupted)
    distill(tiny_encoder("bert", tmp_path), teacher, texts, config, tmp_path / "out")
    assert before
    assert not written.exists()


def test_a_run_killed_after_its_last_step_still_knows_its_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_integrations.training import heal

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(heal, "save", interrupted)
        finetune(tiny_encoder("bert", tmp_path), examples(), FINETUNE, tmp_path / "out")
    finetune(tiny_encoder("bert", tmp_path), examples(), FINETUNE, tmp_path / "out")
    finetune(tiny_encoder("bert", tmp_path), examples(), FINETUNE, tmp_path / "unbroken")
    logs = [
        json.loads((tmp_path / name / "effir.json").read_text())["made_by"][-1]["log"]
        for name in ("out", "unbroken")
    ]
    assert logs[0] == logs[1]
    assert [entry["step"] for entry in logs[0]] == [1, 8]


if __name__ == "__main__":
    run_stages(Path(sys.argv[1]))
