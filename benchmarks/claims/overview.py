"""The page over all models: what became of each claim on every one of them, and our readings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effir_integrations.files import new_file, read_json, write_json

from .checks import Question, overall
from .lab import Lab
from .page import CLAIMS, PAPER, Section, markdown

READINGS = Path(__file__).with_name("readings.md")
"""What we make of the figures, by hand: a heading `## N` for each claim."""
VERDICTS_FILE = "verdicts.json"
"""Beside the images of a model's page."""


def save_verdicts(lab: Lab, sections: Mapping[int, Section | None], folder: Path) -> None:
    """Write what became of each claim to `folder/verdicts.json`."""
    claims = {
        number: {
            "verdict": overall(section.questions),
            "questions": [_counted(question) for question in section.questions],
        }
        for number, section in sections.items()
        if section is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    record = {"model": lab.name, "layers": lab.layers, "parameters": lab.base.parameters}
    write_json(folder / VERDICTS_FILE, {**record, "claims": claims})


def _counted(question: Question) -> dict[str, Any]:
    return {
        "text": question.text,
        "of_paper": question.of_paper,
        "verdict": question.verdict,
        "held": sum(check.held for check in question.checks),
        "compared": len(question.checks),
    }


def readings(path: Path = READINGS) -> dict[int, str]:
    """Return what we make of each claim, by its number."""
    if not path.is_file():
        return {}
    parts = re.split(r"^## (\d+)\s*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = zip(parts[1::2], parts[2::2], strict=True)
    return {int(number): text.strip() for number, text in found if text.strip()}


def write_overview(folder: Path, out: Path) -> None:
    """Write the page over all models whose verdicts lie in folders of `folder`."""
    found = {
        path.parent.name: read_json(path, "verdicts of measure_claims.py")
        for path in sorted(folder.glob(f"*/{VERDICTS_FILE}"))
    }
    models = dict(sorted(found.items(), key=lambda item: item[1]["parameters"]))
    pages = {name: (folder / f"{name}.md").relative_to(out.parent).as_posix() for name in models}
    ours = readings()
    parts = [_head(models, pages), _table(models)]
    for number, claim in CLAIMS.items():
        parts += [f"## {number}. {claim.title}", f"The paper: {claim.paper} ({claim.source})"]
        table = _questions(models, number)
        parts += [table] if table else ["Not run."]
        if number in ours:
            parts.append(f"Our reading: {ours[number]}")
    with new_file(out) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _head(models: Mapping[str, Any], pages: Mapping[str, str]) -> str:
    lines = [
        f"* [{each['model']}]({pages[name]}): {each['layers']} layers, {each['parameters']:,} "
        "parameters"
        for name, each in models.items()
    ]
    return "\n\n".join(
        [
            "# The paper's claims on models that anyone can have",
            f"What [EffiR]({PAPER}) says of models of 7B parameters, asked of smaller ones. A "
            "comparison of nDCG@10 holds where its 95 % interval over queries leaves out that "
            "there is no effect; a claim holds, partly holds or does not as all, some or none of "
            "its comparisons do. Tables, plots and the command are on the page of each model.",
            "\n".join(lines),
        ]
    )


def _table(models: Mapping[str, Any]) -> str:
    rows = [
        [f"{number}. {claim.title}"]
        + [
            each["claims"].get(str(number), {}).get("verdict", "not run")
            for each in models.values()
        ]
        for number, claim in CLAIMS.items()
    ]
    return markdown(["claim", *(each["model"] for each in models.values())], rows)


def _questions(models: Mapping[str, Any], number: int) -> str:
    """Return a table: each question of a claim, and how many of its comparisons held."""
    asked: dict[str, dict[str, str]] = {}
    for name, each in models.items():
        for question in each["claims"].get(str(number), {}).get("questions", ()):
            text = question["text"] + ("" if question["of_paper"] else " (our own, not counted)")
            count = f" ({question['held']} of {question['compared']})" * bool(question["compared"])
            asked.setdefault(text, {})[name] = question["verdict"] + count
    rows = [[text, *(cells.get(name, "-") for name in models)] for text, cells in asked.items()]
    columns = ["comparisons", *(each["model"] for each in models.values())]
    return markdown(columns, rows) if rows else ""
