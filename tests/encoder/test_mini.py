"""The small decoder comes along, and its name works wherever a model is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from common import Recipe, recipe_parser
from safetensors import safe_open
from tiny import save_bare
from typer.testing import CliRunner

import effir_integrations
from effir_integrations import load
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.cli import app
from effir_integrations.encoder import mini
from effir_integrations.encoder.mini import MINI, mini_path
from effir_integrations.encoder.model_files import identify_files
from effir_integrations.encoder.sources import find_architecture, find_source
from effir_integrations.evaluation.evaluate import evaluate
from effir_integrations.files import folder_bytes
from effir_integrations.model.rewrite import identity_on_disk

CARD_OF_RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "mini" / "CARD.md"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No folder of that name lies in the current directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(tmp_path):
    """Three documents, each of which a query repeats."""
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    texts = ["a moss is a plant", "ships float", "bread is baked"]
    for name in ("corpus", "queries"):
        rows = [json.dumps({"_id": f"{name}{i}", "text": text}) for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    rows = ["query-id\tcorpus-id\tscore", *(f"queries{i}\tcorpus{i}\t1" for i in range(3))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows))
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_is_a_decoder_in_the_shape_of_large_ones_and_small_enough():
    identity = identity_on_disk(Path(mini_path()))
    mlps, attentions = sum(identity.mlp_parameters), sum(identity.attention_parameters)
    assert identity.layers >= 8
    assert mlps / (mlps + attentions) >= 0.65
    weights = Path(mini_path()) / "model.safetensors"
    assert weights.stat().st_size <= 24e6
    with safe_open(weights, "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}
    assert not [
        path for path in Path(mini_path()).rglob("*") if path.suffix in (".bin", ".pkl", ".pt")
    ]


def test_its_card_is_the_one_of_the_recipe_and_its_figures_are_measured():
    card = (Path(mini_path()) / "README.md").read_text()
    assert card == CARD_OF_RECIPE.read_text()
    figures = card.split("## Figures")[1].split("\n## ")[0]
    measured = [float(x) for x in re.findall(r"\b0\.\d{4}\b", figures)]
    # effir-mini, its teacher and BM25 on two data sets
    assert len(measured) >= 6 and "FIGURES" not in card


def test_it_pools_the_last_token_which_is_the_end_of_every_text():
    encoder = load(MINI)
    assert encoder[1].pooling_mode == "lasttoken"
    assert encoder.prompts == {"query": "query: ", "document": "document: "}
    assert encoder.max_seq_length == 256
    tokenizer = encoder.tokenizer
    for text in ("", "a moss", "word " * 500):
        ids = tokenizer(text, truncation=True, max_length=256)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id
        assert len(ids) <= 256


def test_its_name_stands_for_its_folder():
    assert effir_integrations.mini_path() == mini_path()
    assert find_source(MINI) == mini_path()
    assert find_architecture(MINI).causal
    named, given = identify_files(MINI), identify_files(mini_path())
    assert named == given


def test_a_local_folder_of_that_name_wins(tmp_path):
    save_bare("bert", tmp_path / MINI)
    assert find_source(MINI) == MINI
    assert not find_architecture(MINI).causal


def test_an_installation_without_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "__file__", str(tmp_path / "mini.py"))
    for call in (mini_path, lambda: find_source(MINI), lambda: load(MINI)):
        with pytest.raises(FileNotFoundError, match="reinstall it"):
            call()


def test_adapters_know_it_by_name():
    lazy = LazyEncoder(MINI, precision="fp32")
    assert lazy.name == MINI
    assert lazy.embed(["a moss"], "query").shape == (1, lazy.dimension)


def test_figures_are_under_its_name_and_of_its_folder(data):
    result = evaluate(MINI, data)
    assert result.model == MINI
    assert result.bytes == folder_bytes(Path(mini_path()))
    sizes = identity_on_disk(Path(mini_path()))
    tables = 16_384 * sizes.hidden_size
    assert result.parameters == sizes.parameters
    assert result.non_embedding_parameters == sizes.parameters - tables


def test_verbs_take_its_name(tmp_path, data):
    assert json.loads(run("show", MINI, "--json"))["model"] == MINI
    run("drop", MINI, "--mlp-layers", "1", "--out", tmp_path / "run", "--quiet")
    run("export", tmp_path / "run", tmp_path / "smaller", "--from-disk", "--quiet")
    assert identity_on_disk(tmp_path / "smaller").mlp_widths[1] == 0
    history = json.loads((tmp_path / "smaller" / "effir.json").read_text())
    assert history["base"] == MINI
    vectors = tmp_path / "vectors.npy"
    run("encode", MINI, "--data", data, "--out", vectors, "--precision", "fp32", "--quiet")
    assert vectors.is_file()


def test_recipes_take_it_where_no_model_is_named(data):
    options = recipe_parser("").parse_args(["--data", str(data), "--quiet"])
    recipe = Recipe("some", options)
    assert recipe.model == MINI
    assert recipe.out.name == f"data-{MINI}"


@pytest.mark.slow
@pytest.mark.real_data
def test_it_reaches_its_stated_score_on_scifact(scifact):
    assert evaluate(MINI, scifact, dtype="fp32").metrics["nDCG@10"] >= 0.45
