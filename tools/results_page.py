"""The page of all results: one table, which `results_table.js` filters and sorts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import astuple

from results_rows import RESULTS, Row, rows, verdicts

BENCHMARKS = RESULTS.parent / "benchmarks.md"
HEAD = """# Results in one table

Every row of the JSON files that are kept, and of the tables on the pages of the
[claims](results.md). Choose above the table, type into it, or click the head of a column. Only rows
of one data set with the same number of documents can be compared: fewer documents are easier to
search. Shares are of the full model's nDCG@10, in brackets the 95 % interval over queries where it
was kept. Parameters leave out the vocabulary. Machines and dates are on the pages of
[figures](benchmarks.md) and of each model, which `from` leads to.
"""
COLUMNS = (
    "model",
    "data",
    "variant",
    "nDCG@10",
    "share of full",
    "parameters",
    "documents/s",
    "queries/s",
    "documents",
    "method",
    "script",
    "from",
    "also measured",
)
_LEFT = ("model", "data", "variant", "method", "script", "from", "also measured")
_PLOTS = (
    ("fidelity.png", "What check says, against judgements", "benchmarks.md"),
    ("effir-mini/claim-1.png", "effir-mini, sublayers dropped", "results/effir-mini.md"),
    ("effir-mini/claim-3.png", "effir-mini, depth and width", "results/effir-mini.md"),
    (
        "all-mpnet-base-v2/claim-1.png",
        "all-mpnet-base-v2, sublayers dropped",
        "results/all-mpnet-base-v2.md",
    ),
    (
        "all-mpnet-base-v2/claim-3.png",
        "all-mpnet-base-v2, depth and width",
        "results/all-mpnet-base-v2.md",
    ),
)


def results_page() -> str:
    """Return the page.

    Raises:
        ValueError: As of `rows`.
    """
    table = _table(COLUMNS, (_cells(row) for row in rows()), _LEFT)
    parts = [HEAD, '<div id="results" markdown>\n', *table, "\n</div>\n", *_claims(), *_plots()]
    return "\n".join([*parts, *_elsewhere()]) + "\n"


def _cells(row: Row) -> list[str]:
    *figures, script, source, more = astuple(row)
    return [*figures, f"`benchmarks/{script}`", f"[{source}](results/{source})", more]


def _table(
    columns: tuple[str, ...], lines: Iterator[list[str]], left: tuple[str, ...]
) -> list[str]:
    marks = ["---" if column in left else "---:" for column in columns]
    return [f"| {' | '.join(cells)} |" for cells in [list(columns), marks, *lines]]


def _claims() -> Iterator[str]:
    yield "## The paper's claims\n"
    yield "What each claim is, and our reading of it: [claims](results.md).\n"
    lines = []
    for model, claim, held in verdicts():
        asked = held["questions"]
        if not asked:
            lines.append([model, claim, "", "", held["verdict"]])
        for question in asked:
            text = question["text"] + (" (our own)" if not question["of_paper"] else "")
            count = f"{question['held']} of {question['compared']}"
            lines.append([model, claim, text, count, question["verdict"]])
    columns = ("model", "claim", "comparison", "holds in", "verdict")
    yield "\n".join(_table(columns, iter(lines), ("model", "comparison", "verdict"))) + "\n"


def _plots() -> Iterator[str]:
    yield "## Plots\n"
    for name, title, page in _PLOTS:
        yield f"[{title}]({page}):\n\n![{title}](results/{name})\n"
    yield "All others are on the pages of [effir-mini](results/effir-mini.md) and"
    yield "[all-mpnet-base-v2](results/all-mpnet-base-v2.md).\n"


def _elsewhere() -> Iterator[str]:
    """Name the sections of the figures whose JSON is not kept: their rows are not in the table."""
    yield "## Not in the table\n"
    yield "Of these, tables were kept and no JSON; they are on the page of the figures alone:\n"
    text = BENCHMARKS.read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0]
        if re.search(r"^\|", section, re.MULTILINE) and not re.search(
            r"results/\S+\.json\)", section
        ):
            yield f"* [{title}](benchmarks.md#{_anchor(title)})"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
