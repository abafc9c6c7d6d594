"""A decoder adapted to retrieval by texts: the pretext loss, its head, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from examples import tiny_encoder
from tiny import FAMILY_OPTIONS, SIZES, WORDS, save_bare, tiny_tokenizer

from effir_integrations import export, load
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.files import file_sha256
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.training.adapt import adapt
from effir_integrations.training.config import AdaptConfig
from effir_integrations.training.lm_head import lm_head
from effir_integrations.training.losses import PretextLoss

CONFIG = AdaptConfig(steps=30, batch_size=8, learning_rate=3e-3, rank=8, precision="fp32")


def sentence(number: int) -> str:
    return " ".join(WORDS[(number * step) % 60] for step in (1, 7, 11, 13)) + " ."


TEXTS = ["\n\n".join((sentence(n), sentence(n + 1))) for n in range(40)]


def language_model(family: str, folder: Path, **options: Any) -> Path:
    """Write a whole tiny language model, head included."""
    prefix = {"gpt2": "GPT2", "gpt_neox": "GPTNeoX"}.get(family, family.capitalize())
    sizes = {**SIZES, **FAMILY_OPTIONS.get(family, {}), **options}
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def by_hand(
    states: torch.Tensor, head: torch.Tensor, targets: list[list[set[int]]], weights: list[float]
) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for task, weight in zip(targets, weights, strict=True):
        each = []
        for state, tokens in zip(states, task, strict=True):
            scores = torch.stack([row @ state for row in head])
            probabilities = scores.exp() / scores.exp().sum()
            if tokens:
                logs = [probabilities[token].log() for token in sorted(tokens)]
                each.append(-torch.stack(logs).mean())
        total = total + weight * torch.stack(each).mean()
    return total


def column(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(x) + [0] * (longest - len(x)) for x in rows]),
    }


def test_the_pretext_loss_and_its_gradients_equal_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    states, head = (
        torch.randn(size, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in (3, 11)
    )
    # token 0 pads and token 2 ends a text; a token that stands twice counts once
    own, following = [[5, 5, 7, 2], [3, 2], [9, 8, 10, 2]], [[4, 2], [2], [6, 6, 3, 2]]
    loss = PretextLoss(
        lambda features: {"sentence_embedding": states},
        head,
        own_weight=0.5,
        next_weight=2.0,
        left_out=(0, 2),
    )
    terms = loss([{}, column(own), column(following)])
    ours = terms["own"] + terms["next"]
    sets = [[{5, 7}, {3}, {8, 9, 10}], [{4}, set(), {3, 6}]]
    theirs = by_hand(states, head, sets, [0.5, 2.0])
    assert abs((ours - theirs).item()) < 1e-10
    for mine, reference in zip(
        torch.autograd.grad(ours, [states, head]),
        torch.autograd.grad(theirs, [states, head]),
        strict=True,
    ):
        assert reference.abs().max() > 1e-3
        assert (mine - reference).abs().max() < 1e-10


def test_logits_are_capped_where_the_family_caps_them() -> None:
    states, head = torch.randn(1, 4), 10 * torch.randn(6, 4)
    loss = PretextLoss(
        lambda features: {"sentence_embedding": states},
        head,
        own_weight=1.0,
        next_weight=0.0,
        softcap=2.0,
    )
    given = loss([{}, column([[3]]), column([[1]])])
    expected = -torch.log_softmax(2 * torch.tanh(head @ states[0] / 2), dim=0)[3]
    assert set(given) == {"own"} and torch.allclose(given["own"], expected)


def test_embeddings_come_to_foretell_their_own_and_the_next_sentence(tmp_path: Path) -> None:
    folder = language_model(
        "llama", tmp_path / "base", tie_word_embeddings=False, initializer_range=0.3
    )
    made = adapt(folder, TEXTS, CONFIG, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "effir.json").read_text())["made_by"][-1]
    assert record["stage"] == "adapt" and record["data"]["examples"] == len(TEXTS)
    for term in ("own", "next"):
        assert record["log"][-1][term] < 0.9 * record["log"][0][term]
    assert type(made[-1]).__name__ == "Normalize"


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "gemma2", "phi3"])
def test_the_head_is_that_of_the_whole_language_model(family: str, tmp_path: Path) -> None:
    for tied in (True, False):
        name = f"{family}-{tied}"
        folder = language_model(family, tmp_path / name, tie_word_embeddings=tied)
        whole = transformers.AutoModelForCausalLM.from_pretrained(folder)
        encoder = load(folder)
        found = lm_head(encoder)
        # whether Transformers ties them depends on what else the process has loaded meanwhile
        head = whole.get_input_embeddings() if tied else whole.get_output_embeddings()
        assert torch.equal(found, head.weight)
        embeddings = transformer_model(encoder).get_input_embeddings().weight
        assert (found is embeddings) == tied


def test_a_model_without_a_head_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    save_bare("llama", tmp_path / "bare", tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"without its language-modelling head"):
        adapt(tmp_path / "bare", TEXTS, CONFIG, tmp_path / "out")
    with pytest.raises(ValueError, match="is an encoder, which predicts no tokens"):
        adapt(tiny_encoder("bert", tmp_path), TEXTS, CONFIG, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.training").exists()


def test_states_that_go_through_more_than_pooling_are_refused(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    encoder = tiny_encoder("gpt2", tmp_path)
    encoder.insert(2, Dense(32, 8))
    with pytest.raises(ValueError, match="Pooling, Dense, Normalize"):
        adapt(encoder, TEXTS, CONFIG, tmp_path / "out")


def test_texts_of_one_sentence_are_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder("gpt2", tmp_path)
    for texts in ([sentence(1), sentence(2)], ["w1"]):
        with pytest.raises(ValueError, match=f"none of the {len(texts)} texts.*two sentences"):
            adapt(encoder, texts, CONFIG, tmp_path / "out")


def test_settings_that_ask_for_nothing_are_refused() -> None:
    for wrong, reason in (
        ({"own_weight": 0, "next_weight": 0}, "nothing to predict"),
        ({"own_weight": -1.0}, "own_weight=-1.0"),
        ({"mini_batch_size": 2}, "contrastive loss alone"),
    ):
        values: dict[str, Any] = wrong
        with pytest.raises(ValueError, match=reason):
            replace(CONFIG, **values)


def test_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effir_integrations.training.trainer import StageTrainer

    config = replace(CONFIG, steps=8, save_steps=2)
    folder = language_model("llama", tmp_path / "base")
    adapt(folder, TEXTS, config, tmp_path / "whole")
    step, taken = StageTrainer.training_step, []

    def stops(self: StageTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        taken.append(self.state.global_step)
        if len(taken) == 6:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(StageTrainer, "training_step", stops)
    with pytest.raises(KeyboardInterrupt):
        adapt(folder, TEXTS, config, tmp_path / "out")
    adapt(folder, TEXTS, config, tmp_path / "out")
    assert taken == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    weights = [file_sha256(tmp_path / x / "model.safetensors") for x in ("whole", "out")]
    assert weights[0] == weights[1]
    with pytest.raises(FileExistsError):
        adapt(folder, TEXTS[1:], config, tmp_path / "out")


def test_a_pruned_model_of_tied_embeddings_can_be_adapted(tmp_path: Path) -> None:
    encoder = tiny_encoder("gpt2", tmp_path)
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(1,))
    pruned = export(encoder, plan, tmp_path / "pruned")
    made = adapt(pruned, TEXTS, replace(CONFIG, steps=2), tmp_path / "out")
    assert transformer_model(made).config.model_type == "effir_gpt2"
