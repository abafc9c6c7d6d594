"""Cards and histories stay true when a model is saved, trained, pruned again or uploaded."""

from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from pruned_folder import PROMPTS, TEXTS, another_plan_for, plan_for, train, write_pruned
from sentence_transformers import SentenceTransformer
from sentence_transformers.base import model as stock_model
from tiny import save_bare

from effir_integrations import Encoder, evaluate, export, load
from effir_integrations.data.beir import RetrievalData
from effir_integrations.encoder.history import read_history
from effir_integrations.evaluation.retrieval import score_run
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import identity_on_disk
from effir_integrations.pruning.export import export_from_disk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pruned("qwen3", tmp_path_factory.mktemp("cards"))


@pytest.fixture
def encoder(folder):
    return load(folder, device="cpu")


@pytest.mark.parametrize("kind", [Encoder, SentenceTransformer])
def test_a_model_that_is_saved_again_keeps_card_and_history(kind, folder, tmp_path):
    kind(str(folder), device="cpu").save_pretrained(str(tmp_path / "again"))
    for name in ("README.md", "effir.json", "modeling_effir.py"):
        assert (tmp_path / "again" / name).read_text() == (folder / name).read_text(), name


def test_a_history_of_another_shape_is_not_kept(encoder, tmp_path):
    export(encoder, another_plan_for(encoder), tmp_path / "smaller")
    assert read_history(tmp_path / "smaller")["mlp_widths_before"] == [48, 0, 48, 5]
    encoder.save_pretrained(str(tmp_path / "by-hand"))
    # surgery gave the loaded model another shape than the history in its folder tells of
    assert read_history(tmp_path / "by-hand") is None


def cards(path):
    card = ModelCard.load(path / "README.md")
    return card, card.data.to_dict()


def test_the_card_says_where_the_model_comes_from_and_survives_the_hub_s_own_reader(
    folder, tmp_path
):
    card, data = cards(folder)
    assert data["license"] == "mit" and data["language"] == ["en", "de"]
    # what holds of the base's files does not hold of these
    assert "onnx" not in data["tags"] and {"effir", "pruning"} <= set(data["tags"])
    card.data.tags.append("mine")
    card.data.license = "apache-2.0"
    shutil.copytree(folder, tmp_path / "edited")
    card.save(tmp_path / "edited" / "README.md")
    edited = load(tmp_path / "edited", device="cpu")
    edited.save_pretrained(str(tmp_path / "again"))
    again, data = cards(tmp_path / "again")
    assert again.content == card.content
    assert data["license"] == "apache-2.0" and "mine" in data["tags"]
    # pruned once more, what its owner wrote is still there
    export_from_disk(tmp_path / "again", another_plan_for(edited), tmp_path / "smaller")
    data = cards(tmp_path / "smaller")[1]
    assert data["license"] == "apache-2.0" and "mine" in data["tags"]


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        ("me/base", "abc", "me/base"),
        ("gpt2", "abc", "gpt2"),
        ("models/base", None, None),
        ("/home/me/base", None, None),
    ],
)
def test_only_a_base_from_the_hub_is_named_in_the_metadata(
    encoder, tmp_path, name, revision, expected
):
    base = BaseIdentity.of(encoder[0].model, name)
    plan = PruningPlan(base=replace(base, revision=revision))
    encoder.save_pretrained(str(tmp_path / "base"), create_model_card=False)
    export_from_disk(tmp_path / "base", plan, tmp_path / "out")
    assert cards(tmp_path / "out")[1].get("base_model") == expected


def test_the_card_of_a_base_without_metadata_does_no_harm(encoder, tmp_path):
    for number, text in enumerate(
        ("", "no metadata", "---\n{broken\n---\nbody", "---\n- a\n---\n")
    ):
        encoder.save_pretrained(str(tmp_path / f"base{number}"), create_model_card=False)
        (tmp_path / f"base{number}" / "README.md").write_text(text)
        base = tmp_path / f"base{number}"
        out = export_from_disk(base, another_plan_for(encoder), tmp_path / f"{number}")
        assert "effir" in cards(out)[1]["tags"]


def test_a_trained_pruned_model_keeps_what_its_card_said(encoder, folder, tmp_path):
    train(encoder, tmp_path / "work")
    encoder.save_pretrained(str(tmp_path / "trained"))
    card, data = cards(tmp_path / "trained")
    assert data["license"] == "mit" and {"effir", "generated_from_trainer"} <= set(data["tags"])
    assert "MultipleNegativesRankingLoss" in card.text
    assert "| 1 | kept | 48 | dropped |" in card.text and "* drop: mlp 1" in card.text
    assert "Encoder" not in card.text
    assert run_example(card, tmp_path / "trained")["model"].similarity_fn_name == "cosine"
    # and once more, from what was written
    again = load(tmp_path / "trained", device="cpu")
    again.save_pretrained(str(tmp_path / "again"))
    assert cards(tmp_path / "again")[0].content == card.content
    train(again, tmp_path / "work")
    again.save_pretrained(str(tmp_path / "twice"))
    text = cards(tmp_path / "twice")[0].text
    for line in ("* drop: mlp 1", "| 1 | kept | 48 | dropped |", "## Usage"):
        assert text.count(f"\n{line}\n") == 1, line


def run_example(card, place, **texts):
    """Run the code of a card on a folder, with other texts in place of its lists of them."""
    code = card.text.split("```python\n")[1].split("```")[0]
    tree = ast.parse(code.replace("sentence_transformers_model_id", str(place)))
    scope = {f"_{name}": value for name, value in texts.items()}
    for line in tree.body:
        if isinstance(line, ast.Assign) and line.targets[0].id in texts:
            line.value = ast.Name(f"_{line.targets[0].id}", ast.Load())
    exec(compile(ast.fix_missing_locations(tree), "card", "exec"), scope)
    return scope


def small_data():
    """Queries of one word each, whose ranks move with the prompts in front."""
    documents = {f"d{n}": f"w{n} w{n + 5}" for n in range(40)}
    queries = {f"q{n}": f"w{n}" for n in range(40)}
    qrels = {f"q{n}": {f"d{n}": 1} for n in range(40)}
    return RetrievalData(
        name="small", split="test", documents=documents, queries=queries, qrels=qrels
    )


def figure_of(scores, data):
    names = list(data.documents)
    run = {
        query: dict(zip(names, row.tolist(), strict=True))
        for query, row in zip(data.queries, scores, strict=True)
    }
    return score_run(data.qrels, run)["nDCG@10"]


@pytest.mark.parametrize("prompts", [PROMPTS, {"query": PROMPTS["query"]}, {}])
@pytest.mark.parametrize("made", ["full", "pruned", "trained", "uploaded"])
def test_the_code_on_a_card_gives_the_figure_of_evaluate(made, prompts, tmp_path):
    encoder = load(save_bare("qwen3", tmp_path / "bare"), device="cpu")
    encoder.prompts = dict(prompts)
    out = tmp_path / "out"
    if made == "full":
        encoder.save_pretrained(str(out))
    else:
        encoder = export(encoder, plan_for(encoder), out)
    if made == "trained":
        train(encoder, tmp_path / "work")
        encoder.save_pretrained(str(out))
    if made == "uploaded":
        encoder.model_card_data.set_model_id(str(out))
        encoder.save_pretrained(str(out), model_name=str(out))
    data = small_data()
    texts = {"queries": list(data.queries.values()), "documents": list(data.documents.values())}
    if made in ("full", "trained") and not prompts:
        # the code of Sentence Transformers, which knows no roles, is right there
        texts = {"sentences": [*texts["queries"], *texts["documents"]]}
    scores = run_example(cards(out)[0], out, **texts)["similarities"]
    count = len(data.queries)
    scores = scores[:count, count:] if "sentences" in texts else scores
    expected = evaluate(str(out), data, device="cpu").metrics["nDCG@10"]
    assert figure_of(scores, data) == pytest.approx(expected)
    if prompts:
        plain = SentenceTransformer(str(out), device="cpu")
        vectors = [plain.encode(list(x.values())) for x in (data.queries, data.documents)]
        assert figure_of(plain.similarity(*vectors), data) != pytest.approx(expected)


def test_the_card_of_a_plain_model_asks_for_no_package(tmp_path):
    bare = save_bare("llama", tmp_path / "bare")
    plan = PruningPlan(base=identity_on_disk(bare), drop_mlp=(2,), drop_attention=(2,))
    made = export(bare, plan, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "import effir_integrations" not in card
    assert "whatever loads llama models loads it" in card
    assert "import effir_integrations" not in made._push_to_hub_usage_tip("me/plain")


def test_the_description_of_a_pull_request_names_a_class_that_can_be_imported(encoder):
    tip = encoder._push_to_hub_usage_tip("me/smaller")
    assert "import SentenceTransformer" in tip and "Encoder" not in tip
    assert "encode_query(queries)" in tip and "encode_document(documents)" in tip


def test_the_example_on_the_card_runs(folder):
    card = cards(folder)[0]
    assert "import effir_integrations" in card.text
    assert run_example(card, folder)["model"].prompts == PROMPTS


def test_the_card_of_a_full_model_names_the_stock_class(folder, tmp_path):
    load(folder.parent / "bare", device="cpu").save_pretrained(str(tmp_path))
    card, data = cards(tmp_path)
    assert card.text.lstrip().startswith("# SentenceTransformer\n")
    assert "Encoder" not in card.text and "effir" not in data["tags"]


class Hub:
    """Stands for the hub: keeps what would be uploaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __call__(self, token=None):
        return self

    def create_repo(self, repo_id, **options):
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, self.place)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")


@pytest.mark.parametrize("kind", [Encoder, SentenceTransformer])
def test_what_goes_to_the_hub_is_the_folder_and_no_pickle(kind, folder, tmp_path, monkeypatch):
    model = kind(str(folder), device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(stock_model, "HfApi", Hub(tmp_path / "hub"))
        # the repository is new, so it holds no card
        patch.setattr(stock_model, "load_file_path", lambda *args, **options: None)
        assert model.push_to_hub("me/smaller") == "https://hub/me/smaller"
    sent = {path.relative_to(tmp_path / "hub").as_posix() for path in (tmp_path / "hub").rglob("*")}
    # which files a folder was written with is of that folder alone
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - {".effir-files"}
    assert sent == there
    assert not {Path(name).suffix for name in sent} & {".bin", ".pt", ".pth", ".pkl", ".pickle"}
    card = cards(tmp_path / "hub")[0]
    assert 'SentenceTransformer("me/smaller")' in card.text
    again = SentenceTransformer(str(tmp_path / "hub"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
