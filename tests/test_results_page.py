"""The page of results holds every row that was kept, with the figures that were kept."""

from __future__ import annotations

import json
import re
from collections import Counter
from statistics import median

import pytest
import results_rows
from pages import ROOT
from results_page import COLUMNS, results_page

RESULTS = ROOT / "docs" / "results"
FILES = sorted(RESULTS.rglob("*.json"))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.fixture(scope="module")
def page() -> str:
    return results_page()


@pytest.fixture(scope="module")
def table(page) -> list[dict[str, str]]:
    text = page.partition('<div id="results" markdown>')[2].partition("</div>")[0]
    head, _, *lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert tuple(head) == COLUMNS
    return [dict(zip(head, line, strict=True)) for line in lines]


def of(table, path) -> list[dict[str, str]]:
    name = path.relative_to(RESULTS).as_posix()
    return [row for row in table if row["from"] == f"[{name}](results/{name})"]


def test_every_file_of_results_is_read():
    assert len(FILES) >= 6
    kinds = {path.stem.partition("-")[0] for path in FILES}
    assert kinds == {"fidelity", "gpu", "readme", "verdicts"}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("fidelity-*.json")), ids=lambda x: x.stem)
def test_what_check_says_is_in_the_table_with_its_figures(path, table):
    kept, rows = json.loads(path.read_text(encoding="utf-8")), of(table, path)
    assert [row["variant"] for row in rows] == list(kept)
    for row, held in zip(rows, kept.values(), strict=True):
        assert float(row["share of full"].rstrip("%")) == pytest.approx(
            100 * held["share"], abs=0.05
        )
        shown = dict(re.findall(r"([a-zA-Z][\w\- ]*) (\d\.\d{4})", row["also measured"]))
        assert {name: float(value) for name, value in shown.items()} == pytest.approx(
            {name: value for name, value in held.items() if name != "share"}, abs=5e-5
        )
        assert row["documents"] in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("gpu-*.json")), ids=lambda x: x.stem)
def test_every_row_of_a_gpu_is_in_the_table_with_its_figures(path, table):
    sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
    kept, rows = [row for x in sections.values() for row in x["rows"]], of(table, path)
    assert len(rows) == len(kept) > 0
    for row, held in zip(rows, kept, strict=True):
        assert row["variant"].startswith(held.get("model") or held.get("check") or held["what"])
        if "parameters" in held:
            assert row["parameters"] == f"{held['non_embedding']:,}"
        for side in ("documents", "queries"):
            if side in held:
                rate = held[side]["texts"] / median(held[side]["seconds"])
                assert float(row[f"{side}/s"].replace(",", "")) == pytest.approx(rate, abs=0.5)
        if "peak" in held:
            shown = f"{held['seconds']:.2f} s, peak {held['peak']:.1f} GB"
            assert row["also measured"] == shown
        if "holds" in held:
            assert row["also measured"].endswith("; holds") == held["holds"]


def test_every_point_of_the_plot_is_in_the_table_with_its_figures(table):
    path = RESULTS / "readme.json"
    kept, rows = json.loads(path.read_text(encoding="utf-8"))["rows"], of(table, path)
    assert [row["model"] for row in rows] == [held["base"] for held in kept]
    for row, held in zip(rows, kept, strict=True):
        assert float(row["nDCG@10"]) == held["nDCG@10"]
        assert float(row["documents/s"].replace(",", "")) == held["documents/s"]
        share, *ends = (float(x) / 100 for x in re.findall(r"[\d.]+", row["share of full"]))
        assert [share, *ends] == pytest.approx([held["share"], *held["interval"]], abs=6e-4)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda x: x.stem)
def test_every_figure_of_a_page_of_claims_is_in_the_table_once(path, table):
    text = path.read_text(encoding="utf-8")
    kept = set()
    for block in re.findall(r"(?:^\| model \| non-emb.*\n)(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *lines = [cells(line) for line in block.splitlines()]
        for what, parameters, *figures in lines:
            for name, figure, after in zip(head[2:], figures, [*figures[1:], ""], strict=True):
                data, comma, _ = name.rpartition(", nDCG@10")
                if name == "nDCG@10":  # the table of speeds, on the first data set
                    kept.add((what, parameters.split()[0], "scifact", figure, "", figures[2]))
                elif comma:
                    kept.add((what, parameters, data, figure, after, ""))
    columns = ("variant", "parameters", "data", "nDCG@10", "share of full", "documents/s")
    shown = Counter(tuple(row[name] for name in columns) for row in of(table, path))
    assert shown == Counter(kept)
    assert len(kept) > 50


def test_every_verdict_is_on_the_page(page):
    for path in sorted(RESULTS.glob("*/verdicts.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        for claim, found in held["claims"].items():
            assert (
                found["questions"]
                or f"| {held['model']} | {claim} |  |  | {found['verdict']} |" in page
            )
            for question in found["questions"]:
                start = f"| {held['model']} | {claim} | {question['text']}"
                end = f" | {question['held']} of {question['compared']} | {question['verdict']} |"
                assert any(f"{start}{own}{end}" in page for own in ("", " (our own)")), question


def test_tables_without_json_are_named_and_not_copied(page):
    absent = page.partition("## Not in the table")[2]
    assert "[Encoding](benchmarks.md#encoding)" in absent
    assert "(benchmarks.md#quality-kept-by-pruning-mlp-neurons)" in absent
    for held in ("#on-a-gpu", "#how-well-check-tells-what-judgements-tell"):
        assert held not in absent


def test_a_file_or_a_row_of_a_kind_that_is_not_known_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(results_rows, "RESULTS", tmp_path)
    (tmp_path / "speed.json").write_text("{}")
    with pytest.raises(ValueError, match=r"speed\.json is of no known kind"):
        results_rows.rows()
    with pytest.raises(ValueError, match="'by magic' names no method"):
        results_rows.method("by magic")
    assert results_rows.method("2 MLPs dropped, 33% of the width gone (slim), fine-tuned") == (
        "MLPs dropped + gates + fine-tuned"
    )
