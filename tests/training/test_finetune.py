"""Fine-tuning: what trains, what is logged, and what the written folder holds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import examples, tiny_encoder
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny import KINDS, in_few

from effir_integrations import Encoder, export, load
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.files.locks import locked
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.slim import slim
from effir_integrations.pruning.slim_config import SlimConfig
from effir_integrations.training.config import FinetuneConfig
from effir_integrations.training.finetune import finetune
from effir_integrations.training.heal import check_merged
from effir_integrations.training.lora import add_lora

QUICK = FinetuneConfig(steps=3, batch_size=8, rank=4, learning_rate=1e-2, precision="fp32")
TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w10"]


def sliced(folder: Path, family: str = "qwen3", dtype: str = "auto") -> Encoder:
    """Return an exported model with one MLP dropped and one narrowed."""
    encoder = tiny_encoder(family, folder, dtype)
    plan = PruningPlan(
        base=BaseIdentity.of(transformer_model(encoder)),
        drop_mlp=(1,),
        neurons={2: torch.arange(0, 48, 3)},
    )
    export(encoder, plan, folder / "sliced", force=True)
    return load(folder / "sliced")


def last_stage(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "effir.json").read_text())["made_by"][-1]


@in_few(*KINDS)
def test_the_written_folder_is_a_stock_model_of_the_same_shape(family: str, tmp_path: Path) -> None:
    encoder = sliced(tmp_path, family)
    before = encoder.encode(TEXTS, convert_to_tensor=True)
    made = finetune(encoder, examples(), QUICK, tmp_path / "out")
    vectors = made.encode(TEXTS, convert_to_tensor=True)
    assert (vectors - before).abs().max() > 1e-3
    stock = SentenceTransformer(str(tmp_path / "out"))
    # an Encoder cuts other batches than the stock class
    found = stock.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(found, vectors, atol=1e-6, rtol=0)
    names = [load_file(tmp_path / name / "model.safetensors").keys() for name in ("sliced", "out")]
    assert names[0] == names[1]
    assert transformer_model(made).config.mlp_widths == [48, 0, 16, 48]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([family, "out", "sliced"])
    assert "the weights were trained" in (tmp_path / "out" / "README.md").read_text()


def test_the_teachers_scores_are_followed_where_the_examples_carry_them(tmp_path: Path) -> None:
    cases = {
        "scored": (examples(scored=True), QUICK),
        "ignored": (examples(scored=True), replace(QUICK, teacher_weight=0.0)),
        "bare": (examples(), QUICK),
    }
    for name, (data, config) in cases.items():
        finetune(sliced(tmp_path), data, config, tmp_path / name)
    logs = {name: last_stage(tmp_path / name)["log"][-1] for name in cases}
    assert logs["scored"]["teacher"] > 0
    assert logs["scored"]["loss"] == pytest.approx(
        logs["scored"]["info_nce"] + logs["scored"]["teacher"], abs=1e-3
    )
    assert "teacher" not in logs["ignored"] and "teacher" not in logs["bare"]
    weights = {name: load_file(tmp_path / name / "model.safetensors") for name in cases}
    # the two were read from other sources, but learned the same
    assert all(
        torch.equal(value, weights["bare"][name]) for name, value in weights["ignored"].items()
    )
    assert any(
        not torch.equal(value, weights["bare"][name]) for name, value in weights["scored"].items()
    )


def test_cached_gradients_train_the_same_model(tmp_path: Path) -> None:
    plain = finetune(sliced(tmp_path), examples(), QUICK, tmp_path / "plain")
    config = replace(QUICK, mini_batch_size=3)
    cached = finetune(sliced(tmp_path), examples(), config, tmp_path / "cached")
    ours, theirs = (model.encode(TEXTS, convert_to_tensor=True) for model in (plain, cached))
    # Adam divides by the gradient's size, so rounding in tiny ones is seen
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_gradient_checkpointing_trains_the_same_model(tmp_path: Path) -> None:
    plain = finetune(sliced(tmp_path), examples(), QUICK, tmp_path / "plain")
    config = replace(QUICK, gradient_checkpointing=True)
    made = finetune(sliced(tmp_path), examples(), config, tmp_path / "out")
    ours, theirs = (model.encode(TEXTS, convert_to_tensor=True) for model in (plain, made))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("trains", ["lora", "all"])
def test_a_bf16_model_trains_in_fp32_and_is_written_in_bf16(tmp_path: Path, trains: str) -> None:
    before = sliced(tmp_path, dtype="bf16")
    assert transformer_model(before).dtype == torch.bfloat16
    weights = {name: x.clone() for name, x in transformer_model(before).state_dict().items()}
    config = replace(QUICK, trains=trains, learning_rate=1e-3, precision="bf16")
    made = transformer_model(finetune(before, examples(), config, tmp_path / "out"))
    assert made.dtype == torch.bfloat16
    moved = [not torch.equal(x, weights[name]) for name, x in made.state_dict().items()]
    assert sum(moved) > 10


def test_the_encoder_computes_in_full_precision_again_afterwards(tmp_path: Path) -> None:
    encoder = sliced(tmp_path)
    made = finetune(encoder, examples(), replace(QUICK, precision="bf16"), tmp_path / "out")
    ours, theirs = (model.encode(TEXTS, convert_to_tensor=True) for model in (encoder, made))
    assert torch.equal(ours, theirs)


def test_a_run_folders_stages_are_all_in_the_history(tmp_path: Path) -> None:
    config = SlimConfig(paper=True, steps=2, batch_size=8, multiple_of=4, sparsity=0.4)
    plan = slim(tiny_encoder("bert", tmp_path), examples(), config, tmp_path / "slim")
    export(tiny_encoder("bert", tmp_path), plan, tmp_path / "sliced")
    finetune(load(tmp_path / "sliced"), examples(), QUICK, tmp_path / "out")
    history = json.loads((tmp_path / "out" / "effir.json").read_text())
    assert [record["stage"] for record in history["made_by"]] == ["slim", "finetune"]
    assert history["base"] == str(tmp_path / "bert")
    assert history["mlp_widths"] == list(plan.mlp_widths)
    assert history["made_by"][1]["data"]["examples"] == 24
    assert history["made_by"][1]["config"]["rank"] == 4


def test_a_model_with_an_adapter_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    encoder = sliced(tmp_path)
    add_lora(transformer_model(encoder), rank=2, alpha=4, dropout=0.0, seed=0)
    with pytest.raises(ValueError, match="carries an adapter already"):
        finetune(encoder, examples(), QUICK, tmp_path / "out")
    with pytest.raises(ValueError, match="carries an adapter already"):
        slim(encoder, examples(), SlimConfig(), tmp_path / "slim")
    assert not (tmp_path / "out.training").exists()


def test_a_folder_that_holds_something_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        finetune(sliced(tmp_path), examples(), QUICK, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_fewer_examples_than_a_batch_are_refused(tmp_path: Path) -> None:
    config = replace(QUICK, batch_size=25)
    with pytest.raises(ValueError, match="24 examples do not fill one batch of 25"):
        finetune(sliced(tmp_path), examples(), config, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"trains": "some"}, "trains='some'"),
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"adapter_dropout": 1.0}, "adapter_dropout=1.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"teacher_weight": -1.0}, "teacher_weight=-1.0"),
        ({"mini_batch_size": 0}, "mini_batch_size=0"),
    ],
)
def test_settings_that_will_not_do_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(QUICK, **change)


def test_a_merge_that_changed_the_vectors_is_found() -> None:
    vectors = torch.randn(3, 8)
    check_merged(vectors, vectors * (1 + 1e-6), torch.float32)
    with pytest.raises(RuntimeError, match="differs from the adapted one"):
        check_merged(vectors, vectors + 1e-3, torch.float32)
    check_merged(vectors, vectors + 1e-3, torch.bfloat16)
    with pytest.raises(RuntimeError, match="differs from the adapted one"):
        check_merged(vectors, vectors.flip(0), torch.bfloat16)


def test_two_runs_do_not_train_into_one_folder(tmp_path: Path) -> None:
    encoder = tiny_encoder("bert", tmp_path)
    with (
        locked(tmp_path / "out"),
        pytest.raises(ValueError, match="out is being written by another process"),
    ):
        finetune(encoder, examples(), QUICK, tmp_path / "out", force=True)
    assert os.listdir(tmp_path) == ["bert"]


def test_what_is_read_is_not_trained_into(tmp_path: Path) -> None:
    encoder = tiny_encoder("bert", tmp_path)
    with pytest.raises(ValueError, match="bert is the model that is read"):
        finetune(encoder, examples(), QUICK, tmp_path / "bert", force=True)
    with pytest.raises(ValueError, match=" holds the model that is read"):
        finetune(encoder, examples(), QUICK, tmp_path, force=True)
    assert os.listdir(tmp_path) == ["bert"]
