"""A Dense to a teacher's vectors, solved for on texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from examples import tiny_encoder
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from tiny import WORDS, save_bare
from torch.nn.functional import cosine_similarity

from effir_integrations import Encoder, load
from effir_integrations.training.head import with_head

TEXTS = [f"{x} {y} {z}" for x in WORDS[:12] for y in WORDS[20:25] for z in WORDS[40:43]]
HELD_OUT = [f"{x} {z} {y}" for x in WORDS[:6] for y in WORDS[20:25] for z in WORDS[40:43]]
"""Of the same words, in another order: random models have no others in common."""


@pytest.mark.parametrize("normalised", [True, False])
def test_a_teachers_vectors_come_out_of_the_dense(normalised: bool, tmp_path: Path) -> None:
    student = tiny_encoder("bert", tmp_path)
    if normalised:
        student = Encoder(modules=[*student, Normalize()])
    student.prompts = {"query": "w1 ", "document": ""}
    save_bare("bert", tmp_path / "wide", hidden_size=64, seed=1)
    teacher = load(tmp_path / "wide")
    made = with_head(student, teacher, TEXTS, TEXTS)

    assert [type(x) for x in made][-2:] == [Dense, Normalize]
    assert sum(isinstance(x, Normalize) for x in made) == 1
    assert made.prompts == student.prompts and made.similarity_fn_name == "cosine"
    ours, theirs = (x.encode(HELD_OUT, convert_to_tensor=True, prompt="") for x in (made, teacher))
    assert ours.shape == theirs.shape == (len(HELD_OUT), 64)
    mean = torch.nn.functional.normalize(theirs.mean(0, keepdim=True), dim=-1)
    fitted, guessed = (cosine_similarity(x, theirs).mean() for x in (ours, mean))
    assert fitted > guessed
