"""Distillation: a student comes closer to its teacher, by vectors or by similarities."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import tiny_encoder
from tiny import WORDS, save_bare
from torch.nn.functional import cosine_similarity

from effir_integrations import export, load
from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.training.config import DistillConfig
from effir_integrations.training.distill import distill
from effir_integrations.training.head import with_head
from effir_integrations.training.held_out import held_out_places

CONFIG = DistillConfig(steps=30, batch_size=8, learning_rate=3e-3, trains="all", precision="fp32")
TEXTS = load_calibration([f"{x} {y}" for x in WORDS[:12] for y in WORDS[20:25]], limit=None)
HELD_OUT = [f"{x} {y}" for x in WORDS[30:36] for y in WORDS[20:25]]


def student(folder: Path, family: str = "bert"):
    encoder = tiny_encoder(family, folder)
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(1, 2))
    export(encoder, plan, folder / "student", force=True)
    return load(folder / "student")


def vectors(encoder) -> torch.Tensor:
    return encoder.encode(HELD_OUT, convert_to_tensor=True)


@pytest.mark.parametrize("trains", ["all", "lora"])
@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_a_student_comes_closer_on_texts_it_has_not_seen(
    family: str, trains: str, tmp_path: Path
) -> None:
    pruned, teacher = student(tmp_path, family), tiny_encoder(family, tmp_path)
    before = cosine_similarity(vectors(pruned), vectors(teacher)).mean()
    config = replace(CONFIG, trains=trains)
    made = distill(pruned, teacher, TEXTS, config, tmp_path / "out")
    after = cosine_similarity(vectors(made), vectors(teacher)).mean()
    assert 1 - after < 0.7 * (1 - before)
    record = json.loads((tmp_path / "out" / "effir.json").read_text())["made_by"][-1]
    assert record["stage"] == "distill"
    assert record["data"]["examples"] == len(TEXTS.texts)
    assert record["data"]["teacher"] == str(tmp_path / family)
    assert record["log"][-1]["vectors"] < record["log"][0]["vectors"]


def test_texts_that_are_held_out_tell_before_each_checkpoint_and_at_the_end_how_near_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pruned, teacher = student(tmp_path), tiny_encoder("bert", tmp_path)
    places = held_out_places(len(TEXTS), CONFIG.batch_size, CONFIG.seed)
    texts = [TEXTS.texts[place] for place in places]
    assert len(places) == 3

    def nearness(encoder) -> float:
        ours, theirs = (x.encode(texts, convert_to_tensor=True) for x in (encoder, teacher))
        return float(cosine_similarity(ours, theirs).mean())

    before, config = nearness(pruned), replace(CONFIG, save_steps=10)
    with caplog.at_level(logging.INFO, logger="effir_integrations"):
        made = distill(pruned, teacher, TEXTS, config, tmp_path / "out")
    lines = [x.getMessage() for x in caplog.records if "held_out_cosine" in x.getMessage()]
    assert [line.split(",")[0] for line in lines] == [
        f"Distilling: step {step} of 30" for step in (0, 10, 20, 30)
    ]
    record = json.loads((tmp_path / "out" / "effir.json").read_text())["made_by"][-1]
    assert record["data"]["held_out"] == 3
    assert record["held_out_cosine"]["before"] == pytest.approx(before, abs=1e-5)
    assert record["held_out_cosine"]["after"] == pytest.approx(nearness(made), abs=1e-5)
    assert [entry["step"] for entry in record["log"]] == [2, 30]


def test_what_is_held_out_is_a_small_part_and_leaves_a_batch() -> None:
    assert len(held_out_places(10_000, 32, 0)) == 128
    assert len(held_out_places(256, 32, 0)) == 12
    assert len(held_out_places(33, 32, 0)) == 1 and held_out_places(32, 32, 0) == []
    assert held_out_places(5, 32, 0) == []
    assert held_out_places(1_000, 32, 0) != held_out_places(1_000, 32, 1)


def test_similarities_come_closer_to_those_of_a_teacher_of_another_dimension(
    tmp_path: Path,
) -> None:
    save_bare("bert", tmp_path / "wide", hidden_size=64, seed=1)
    pruned, teacher = student(tmp_path), load(tmp_path / "wide")

    def distance(encoder) -> float:
        ours, theirs = (
            torch.nn.functional.normalize(vectors(model), dim=-1) for model in (encoder, teacher)
        )
        return float((ours @ ours.T - theirs @ theirs.T).square().mean())

    before = distance(pruned)
    made = distill(pruned, teacher, TEXTS, replace(CONFIG, target="similarities"), tmp_path / "out")
    assert distance(made) < 0.7 * before


def test_a_dense_leads_to_the_vectors_of_a_teacher_of_another_dimension(tmp_path: Path) -> None:
    save_bare("bert", tmp_path / "wide", hidden_size=64, seed=1)
    pruned, teacher = student(tmp_path), load(tmp_path / "wide")
    started = with_head(student(tmp_path), teacher, TEXTS.texts, TEXTS.texts)
    made = distill(pruned, teacher, TEXTS, CONFIG, tmp_path / "out")
    assert made.get_embedding_dimension() == 64
    # the same words in another order: of others, random models have nothing in common
    turned = [" ".join(reversed(text.split())) for text in TEXTS.texts]
    wanted = teacher.encode(turned, convert_to_tensor=True)
    before, after = (
        cosine_similarity(x.encode(turned, convert_to_tensor=True), wanted).mean()
        for x in (started, made)
    )
    assert 1 - after < 0.9 * (1 - before)
    again = distill(student(tmp_path), teacher, TEXTS, CONFIG, tmp_path / "out")
    assert torch.equal(vectors(again), vectors(made))


def test_the_teacher_may_read_the_texts_without_the_students_prompt(tmp_path: Path) -> None:
    pruned, teacher = student(tmp_path), tiny_encoder("bert", tmp_path)
    prompted = load_calibration([f"w50 {text}" for text in TEXTS.texts], limit=None)
    config = replace(CONFIG, similar_lengths=True)
    made = distill(pruned, teacher, prompted, config, tmp_path / "out", teacher_texts=TEXTS)

    wanted = vectors(teacher)
    asked = made.encode([f"w50 {text}" for text in HELD_OUT], convert_to_tensor=True)
    behind_prompt = teacher.encode([f"w50 {text}" for text in HELD_OUT], convert_to_tensor=True)
    reached = cosine_similarity(asked, wanted).mean()
    assert reached > cosine_similarity(asked, behind_prompt).mean()
    assert reached > cosine_similarity(behind_prompt, wanted).mean()
    data = json.loads((tmp_path / "out" / "effir.json").read_text())["made_by"][-1]["data"]
    assert (data["sha256"], data["teacher_sha256"]) == (prompted.sha256, TEXTS.sha256)


def test_texts_and_teacher_texts_of_other_numbers_are_refused(tmp_path: Path) -> None:
    fewer = load_calibration(list(TEXTS.texts[:-1]), limit=None)
    with pytest.raises(ValueError, match="59 teacher_texts for 60 texts"):
        distill(
            student(tmp_path),
            tiny_encoder("bert", tmp_path),
            TEXTS,
            CONFIG,
            tmp_path / "out",
            teacher_texts=fewer,
        )


def test_an_unknown_target_is_refused() -> None:
    values: dict[str, Any] = {"target": "logits"}
    with pytest.raises(ValueError, match="target='logits'"):
        replace(CONFIG, **values)


def test_another_teacher_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_integrations.training import distill as module

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "train", interrupted)
        teacher = tiny_encoder("bert", tmp_path)
        distill(student(tmp_path), teacher, TEXTS, CONFIG, tmp_path / "out")
    save_bare("bert", tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="teacher_fingerprint .* then, .* now"):
        distill(student(tmp_path), load(tmp_path / "other"), TEXTS, CONFIG, tmp_path / "out")


def test_the_limit_is_that_of_the_run_for_student_and_teacher(tmp_path: Path) -> None:
    pruned, teacher = student(tmp_path), tiny_encoder("bert", tmp_path)
    lengths: list[tuple[str, int]] = []
    read, run = pruned[0].preprocess, transformer_model(teacher).forward

    def preprocess(*given: Any, **options: Any) -> Any:
        features = read(*given, **options)
        lengths.append(("student", features["input_ids"].shape[1]))
        return features

    def forward(*given: Any, **inputs: Any) -> Any:
        lengths.append(("teacher", inputs["input_ids"].shape[1]))
        return run(*given, **inputs)

    pruned[0].preprocess, transformer_model(teacher).forward = preprocess, forward
    long = load_calibration([f"{text} w1 w2 w3 w4" for text in TEXTS.texts], limit=None)
    config = replace(CONFIG, steps=2, max_length=4)
    distill(pruned, teacher, long, config, tmp_path / "out")
    # what is written is checked at the end, on texts of any length
    assert set(lengths[:-1]) == {("student", 4), ("teacher", 4)}
    assert teacher.max_seq_length == pruned.max_seq_length == 32
