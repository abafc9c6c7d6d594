"""What the README shows works as it stands: its Python, its commands, its plot; and the steps."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import readme_plot
from beir_folder import write_beir
from pages import ROOT, blocks, commands
from tiny import save_bare
from typer.testing import CliRunner

from effir_integrations.cli import app

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks(ROOT / "README.md")
SHELL = [body for language, body in BLOCKS if language == "sh"]
FOUND = json.loads((ROOT / "docs" / "results" / "readme.json").read_text(encoding="utf-8"))


def test_the_sections_come_in_the_promised_order():
    titles = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert titles == ["Try it", "Use it", "What works where", "More"]


def test_it_is_short_and_shows_one_plot():
    assert len(README.split()) < 900
    assert re.findall(r"!\[[^]]+\]\(([^)]+)\)", README) == ["docs/results/readme.png"]


def spellings(found) -> set[str]:
    """Return how a page may write the numbers that stand in a JSON, names included."""
    if isinstance(found, dict):
        return {x for key, value in found.items() if key != "by query" for x in spellings(value)}
    if isinstance(found, list):
        return {spelled for value in found for spelled in spellings(value)}
    if isinstance(found, str):
        return set(re.findall(r"[\d,]*\d(?:\.\d+)?", found))
    forms = {f"{found:,}"}
    if isinstance(found, float):
        shares = {f"{100 * found:.{digits}f}" for digits in (0, 1)}
        forms |= shares | {f"{found:.{digits}f}" for digits in range(5)}
    return forms


def caption() -> str:
    """Return what is said between the plot and the next section, without code and names."""
    text = README.partition("readme.png)")[2].partition("\n## ")[0]
    text = re.sub(r"^```.*?^```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\S*[A-Za-z@]-?\d\S*", "", text)


def test_every_figure_below_the_plot_was_measured():
    named = re.findall(r"\d[\d,]*(?:\.\d+)?", caption())
    assert not set(named) - spellings(FOUND) - {"95"}
    assert "99.87" not in spellings(FOUND)


def test_the_command_below_the_plot_is_the_one_that_was_run():
    assert FOUND["command"].split() == SHELL[0].replace("\\\n", " ").split()
    readme_plot.parser().parse_args(FOUND["command"].split()[2:])


def run_python():
    (code,) = [body for language, body in BLOCKS if language == "python"]
    assert len([line for line in code.splitlines() if line]) == 4
    exec(compile(code, "README.md", "exec"), {})


def test_the_python_runs_and_is_short(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # a local folder of that name is taken instead, and this one is compressed in no time
    save_bare("mistral", tmp_path / "effir-mini", intermediate_size=128)
    run_python()
    assert capsys.readouterr().out.startswith("[[")
    assert (tmp_path / "smaller" / "modules.json").is_file()


@pytest.mark.slow
def test_the_python_finds_what_is_related(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python()
    related, unrelated = map(float, re.findall(r"-?\d+\.\d+", capsys.readouterr().out))
    assert related > unrelated + 0.1


def test_the_steps_run_in_the_order_shown(tmp_path, monkeypatch):
    model = save_bare("qwen3", tmp_path / "base", intermediate_size=256)
    data = write_beir(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    shown = [body for language, body in blocks(ROOT / "docs" / "steps.md") if language == "sh"]
    verbs = [words for body in shown for words in commands(body)]
    assert len(verbs) == 8
    for line in verbs:
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
    assert f"make {target} " in SHELL[1]
    assert command in done.stdout
    raw = SHELL[2]
    assert command in raw
    for needed in ("-c constraints.txt torch", "-c constraints.txt -e"):
        assert needed in done.stdout
        assert needed in raw


def test_every_file_that_is_linked_is_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
