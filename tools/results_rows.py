"""The rows of the page of results: from the JSON that is kept, and from pages written from JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
_PARTS = (
    ("MLPs dropped", r"\bMLPs? dropped"),
    ("attentions dropped", r"\battentions? dropped"),
    ("blocks dropped", r"\bblocks? dropped"),
    ("reconstruct", r"\breconstruct\b|\brefitted\b"),
    ("gates", r"\(slim\)"),
    ("plain", r", plain\b|\bno refit\b"),
    ("mean", r", mean\b"),
    ("narrowed", r"\bwidth gone(?! \()"),
    ("full", r"^full\b|\bas published\b"),
    ("fine-tuned", r"\bfine-tuned\b"),
)
"""What a name of a model says was done to it."""
_FIDELITY = {
    "scifact": "1,483",
    "msmarco-mini": "4,702",
    "dbpedia-mini": "1,465",
    "docstrings": "2,071",
}
"""How many documents were searched, which only docs/benchmarks.md says."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement; figures are as they are shown, empty where there is none."""

    model: str
    data: str
    what: str
    """The name of the row where it was measured."""
    ndcg: str = ""
    """nDCG@10."""
    share: str = ""
    """Of the full model's nDCG@10, with its 95 % interval where there is one."""
    parameters: str = ""
    """Without those of the vocabulary."""
    documents_a_second: str = ""
    queries_a_second: str = ""
    documents: str
    """How many were searched or encoded."""
    method: str
    """What was done to the model, its parts joined by +."""
    script: str
    """What measured it, in benchmarks/."""
    source: str
    """The file that it is read from, in docs/results."""
    more: str = ""
    """What else was measured."""


def rows() -> list[Row]:
    """Return all rows.

    Raises:
        ValueError: A file is of a kind that is not known, or a row's name says no method.
    """
    found: list[Row] = []
    for page in sorted(RESULTS.glob("*.md"), reverse=True):
        found += _once(claim_rows(page))
    for path in sorted(RESULTS.rglob("*.json")):
        if path.name != "verdicts.json":
            reader = next((READERS[x] for x in READERS if path.stem.startswith(x)), None)
            if reader is None:
                raise ValueError(f"{path} is of no known kind; read it in {Path(__file__).name}")
            found += reader(path)
    return found


def verdicts() -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return model, claim and what it comes to, of every claim that was asked of a model."""
    found = []
    for path in sorted(RESULTS.glob("*/verdicts.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        found += [(held["model"], claim, x) for claim, x in held["claims"].items()]
    return found


def method(what: str) -> str:
    """Return the parts of a method that the name of a row tells.

    Raises:
        ValueError: It tells none.
    """
    parts = [name for name, pattern in _PARTS if re.search(pattern, what)]
    if not parts:
        raise ValueError(f"the row {what!r} names no method; add to _PARTS in {__file__}")
    return " + ".join(parts)


def fidelity_rows(path: Path) -> Iterator[Row]:
    """Yield what `check` says of each model, beside its share of nDCG@10."""
    data = path.stem.removeprefix("fidelity-")
    for what, held in json.loads(path.read_text(encoding="utf-8")).items():
        others = (f"{name} {value:.4f}" for name, value in held.items() if name != "share")
        yield Row(
            model="all-MiniLM-L6-v2",
            data=data,
            documents=_FIDELITY[data],
            method=method(what),
            what=what,
            share=f"{held['share']:.1%}",
            more="check: " + ", ".join(others),
            script="fidelity.py",
            source=path.name,
        )


def gpu_rows(path: Path) -> Iterator[Row]:
    """Yield speeds, checks and costs of a GPU."""
    held = json.loads(path.read_text(encoding="utf-8"))
    common = Row(
        model=f"{held['shape']['name']}, random weights",
        data=f"random texts, {held['device']}",
        documents=f"{held['texts']['documents']:,}",
        method="",
        what="",
        script="gpu.py",
        source=path.name,
    )
    for section, inside in held["sections"].items():
        for row in inside["rows"]:
            yield replace(common, **_SECTIONS[section](row))


def _speed(row: Mapping[str, Any]) -> dict[str, str]:
    names = [row.get("contender"), row.get("precision")]
    names += ["compiled"] * ("compile_seconds" in row)
    sides = ("documents", "queries")
    rates = {side: row[side]["texts"] / median(row[side]["seconds"]) for side in sides}
    more = [
        f"{side}: cosine to ours {row[side]['cosine']:.4f}, peak {row[side]['peak']:.1f} GB"
        for side in sides
    ]
    more += [
        f"times {key.removeprefix('times_')}: "
        + ", ".join(f"{value:.2f} ({side})" for side, value in row[key].items())
        for key in row
        if key.startswith("times_") and row[key]
    ]
    more.append(f"weights {row['resident']:.2f} GB")
    if "compile_seconds" in row:
        more.append(f"compiling {row['compile_seconds']:.0f} s")
    if row["paper"]:
        more.append(f"the paper: {row['paper']}")
    return {
        "method": method(row["model"]),
        "what": ", ".join([row["model"], *filter(None, names)]),
        "parameters": f"{row['non_embedding']:,}" if "non_embedding" in row else "",
        "documents_a_second": f"{rates['documents']:,.0f}",
        "queries_a_second": f"{rates['queries']:,.0f}",
        "more": "; ".join(more),
    }


def _agreement(row: Mapping[str, Any]) -> dict[str, str]:
    holds = "holds" if row["holds"] else "does not hold"
    figures = f"cosine {row['cosine']:.6f}, difference {row['difference']:.1e}"
    more = f"{figures}; allowed: {row['allowed'].replace('<=', 'at most')}; {holds}"
    return {"method": "check", "what": row["check"], "more": more.replace(">=", "at least")}


def _cost(row: Mapping[str, Any]) -> dict[str, str]:
    mlps = f", {row['mlps']} MLPs" if "mlps" in row else ""
    what = f"{row['what']}, {row['layers']} layers{mlps}"
    more = f"{row['seconds']:.2f} s, peak {row['peak']:.1f} GB"
    return {"method": "cost", "what": what, "more": more}


_SECTIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
    "compiled": _speed,
    "correctness": _agreement,
    "costs": _cost,
    "nf4": _speed,
    "table": _speed,
}


def readme_rows(path: Path) -> Iterator[Row]:
    """Yield the points of the README's plot."""
    held = json.loads(path.read_text(encoding="utf-8"))
    settings = held["settings"]
    for row in held["rows"]:
        low, high = row["interval"]
        slowest, fastest = row["documents/s, slowest and fastest round"]
        what = f"{row['series']}, {row['label']}"
        yield Row(
            model=row["base"],
            data=settings["data"],
            documents=f"{settings['documents']:,}",
            method=method(what),
            what=what,
            ndcg=f"{row['nDCG@10']:.4f}",
            share=f"{row['share']:.1%} [{low:.1%}, {high:.1%}]",
            documents_a_second=f"{row['documents/s']:,.1f}",
            more=f"share of {settings['model']}; {slowest:,.1f} to {fastest:,.1f} documents/s",
            script="readme_plot.py",
            source=path.name,
        )


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "fidelity-": fidelity_rows,
    "gpu-": gpu_rows,
    "readme": readme_rows,
}
"""How names of files begin -> what reads them."""


def claim_rows(page: Path) -> Iterator[Row]:
    """Yield the figures of a page that `measure_claims.py` wrote from JSON of its own.

    Raises:
        ValueError: It does not say of which model and data.
    """
    text = page.read_text(encoding="utf-8")
    model = re.search(r"^# The paper's claims on (\S+)$", text, re.MULTILINE)
    head = re.search(r"^\* Data: (.+)$", text, re.MULTILINE)
    if model is None or head is None:
        raise ValueError(f"{page} is no page of measure_claims.py: it names no model or no data")
    sets = dict(re.findall(r"([\w-]+): ([\d,]+) documents", head[1]))
    common = Row(
        model=model[1],
        data="",
        documents="",
        method="",
        what="",
        script="measure_claims.py",
        source=page.name,
    )
    for columns, cells in _lines(text):
        if columns[:2] == ["model", "non-embedding parameters"]:
            named = {"method": method(cells[0]), "what": cells[0]}
            for values in _measured(columns, cells, sets):
                yield replace(common, **named, **values)


def _lines(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the cells of every line of every table, behind the names of its columns."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        columns, _, *lines = (
            [cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()
        )
        yield from ((columns, cells) for cells in lines)


def _measured(
    columns: list[str], cells: list[str], sets: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """Yield what one line of a table holds, once a data set."""
    held = dict(zip(columns, cells, strict=True))
    if "documents/s" in held:
        data, documents = next(iter(sets.items()))
        times = (
            f"{side}: times full {held[f'{side}: times full']}" for side in ("documents", "queries")
        )
        yield {
            "data": data,
            "documents": documents,
            "parameters": cells[1].split()[0],
            "ndcg": held["nDCG@10"],
            "documents_a_second": held["documents/s"],
            "queries_a_second": held["queries/s"],
            "more": "; ".join([f"weights {held['MB of weights']} MB", *times]),
        }
        return
    for place, column in enumerate(columns):
        if column.endswith(", nDCG@10"):
            data = column.removesuffix(", nDCG@10")
            yield {
                "data": data,
                "documents": sets[data],
                "parameters": cells[1],
                "ndcg": cells[place],
                "share": cells[place + 1],
            }


def _once(found: Iterator[Row]) -> list[Row]:
    """Leave out what a page shows under several claims."""
    return list(dict.fromkeys(found))
