"""What the README shows works as it stands: its Python, its commands, its files."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from pages import ROOT, blocks, commands
from tiny import save_bare
from typer.testing import CliRunner

from effir_integrations.cli import app

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks(ROOT / "README.md")
SHELL = [body for language, body in BLOCKS if language == "sh"]
VERBS = [words for body in SHELL for words in commands(body) if words[0] == "effir"]


def test_the_sections_come_in_the_promised_order():
    titles = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert titles == ["What it costs", "Try it", "Use it", "The pipeline", "Limits"]


def test_the_table_is_measured_and_not_a_placeholder():
    section = README.split("## What it costs")[1].split("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) >= 5
    assert "benchmarks/" in section


def run_python():
    (code,) = [body for language, body in BLOCKS if language == "python"]
    assert len(code.strip().splitlines()) <= 12
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    return scope["model"].similarity(scope["queries"], scope["documents"])


def test_the_python_runs_and_is_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # a local folder of that name is taken instead, and this one is compressed in no time
    save_bare("mistral", tmp_path / "effir-mini", intermediate_size=128)
    assert run_python().shape == (1, 2)
    assert (tmp_path / "smaller" / "modules.json").is_file()


@pytest.mark.slow
def test_the_python_finds_what_is_related(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    related, unrelated = run_python()[0]
    assert related > unrelated + 0.1


def write_data(folder):
    """A BEIR folder of words that the tiny tokenizer knows."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [json.dumps({"_id": f"d{i}", "text": f"w{i} w{i + 5}"}) for i in range(20)]
    queries = [json.dumps({"_id": f"q{i}", "text": f"w{i}"}) for i in range(5)]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(5))]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels))
    return folder


def test_the_commands_run_in_the_order_shown(tmp_path, monkeypatch):
    model = save_bare("qwen3", tmp_path / "base", intermediate_size=256)
    data = write_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert len(VERBS) == 8
    for line in VERBS:
        words = [{"MODEL": str(model), "DATA": str(data)}.get(x, x) for x in line]
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{line}: {result.output}"
    for made in ("run/importance.png", "run/plan.json", "smaller/modules.json", "vectors.npy"):
        assert (tmp_path / made).is_file()


@pytest.mark.parametrize(
    ("target", "command"),
    [("demo", ".venv/bin/effir demo"), ("test", ".venv/bin/python -m pytest")],
)
def test_make_does_what_the_raw_lines_do(target, command):
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert command in done.stdout
    raw = SHELL[1]
    assert command in raw
    for needed in ("-c constraints.txt torch", "-c constraints.txt -e"):
        assert needed in done.stdout
        assert needed in raw


def test_every_file_that_is_linked_is_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
