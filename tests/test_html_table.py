"""What a notebook shows of a result says what the table of the command line says, and no more."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from pruned_folder import PROMPTS, plan_for
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from tiny import save_bare, tiny_model

import effir_integrations as effir
from effir_integrations.encoder.space_record import Space
from effir_integrations.evaluation.agreement import Agreement
from effir_integrations.evaluation.check import Changed, Fidelity, fidelity_table
from effir_integrations.evaluation.compare import Comparison
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.evaluation.tables import comparison_table, search_table
from effir_integrations.html_table import MOST_ROWS, bar, heat, html_fields, html_rows, html_table
from effir_integrations.model.plan import BaseIdentity, ImportanceReport, PruningPlan
from effir_integrations.model.tables import importance_table, plan_html, plan_table
from effir_integrations.pruning.costs import Costs
from effir_integrations.pruning.points_table import points_table
from effir_integrations.pruning.search_plans import Planned, Point

SHARP = "<b onload='x()'>&amp;\"[bold]"
SPACE = Space(name="some/full", files="0")


class Read(HTMLParser):
    """The rows of all tables, the style of each cell, and the texts around the tables."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.styles, self.rest, self.tags = [], [], [], set()
        self._cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
            self.styles.append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.rows[-1].append("")
            self.styles[-1].append(dict(attributes)["style"])

    def handle_endtag(self, tag):
        self._cell = False

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data
        else:
            self.rest.append(data)


def printed(table):
    """Return the rows that a terminal prints of a table, cell by cell."""
    console = Console(file=io.StringIO(), width=1000, highlight=False)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    return [[x.strip() for x in line[1:-1].split(line[0])] for line in lines if line[:1] in "┃│"]


def assert_same(table, shown):
    """Say whether a notebook shows the rows, the title and the caption that a terminal prints."""
    read = Read(shown._repr_html_())
    rows = printed(table)
    assert len(rows) > 1
    assert [[x.strip() for x in row] for row in read.rows[: len(rows)]] == rows
    assert read.rest[0] == Text.from_markup(table.title).plain
    if table.caption:
        assert read.rows[len(rows)] == [Text.from_markup(table.caption).plain]


@pytest.fixture(scope="module")
def base():
    return BaseIdentity.of(tiny_model("llama"), "some/tiny")


@pytest.fixture(scope="module")
def plan(base):
    neurons = {2: torch.arange(12)}
    return PruningPlan(base=base, drop_mlp=(1,), drop_attention=(0,), neurons=neurons)


@pytest.fixture(scope="module")
def report(base):
    return ImportanceReport(
        base=base,
        calibration={},
        attention=(0.1, None, 0.3, 0.2),
        mlp=(0.25, 0.5, 0.75, 1 / 3),
        block=(0.5, 0.2, 0.1, 0.7),
    )


@pytest.fixture(scope="module")
def planned(plan):
    def point(latency, quality, ends):
        return Point(
            drop_attention=(0,),
            mlp_widths=plan.mlp_widths,
            parameters=plan.parameters,
            megabytes=1.25,
            latency=latency,
            error=0.1,
            measured=ends is not None,
            quality=quality,
            quality_interval=ends,
        )

    costs = Costs(
        setting={"role": "document", "tokens": 20, "threads": 1},
        mlp_widths=plan.base.mlp_widths,
        shares=(0.0, 1.0),
        mlp=(0.0, 2.0),
        attention=0.25,
        attentions=4,
        rest=1.0,
    )
    points = (point(0.8, 0.99, (0.9, 1.0)), point(0.5, None, None))
    return Planned(plan=plan, points=points, chosen=0, costs=costs)


def evaluation(model, **changes):
    values = {
        "data": SHARP,
        "split": "test",
        "metrics": {"nDCG@10": 0.5, "R@100": 0.9, "RR@10": 0.4},
        "parameters": 2_000_000,
        "bytes": 8_000_000,
        "documents": 100,
        "queries": 10,
        "documents_per_second": 50.0,
        "queries_per_second": 200.0,
        "query_latency_ms": 5.0,
        "max_length": 256,
        "batch_size": 32,
        "dtype": "float32",
        "device": "cpu",
    }
    return Evaluation(model=model, **{**values, **changes})


def fidelity():
    agreement = Agreement(
        overlap=0.9,
        overlap_interval=(0.8, 0.95),
        overlap_worst=0.5,
        rank_biased=0.7,
        rank_biased_interval=(0.6, 0.8),
        known_item=0.25,
        known_item_interval=(0.2, 0.3),
        overlap_by_query=(0.9,),
    )
    return Fidelity(
        full="full",
        small="small",
        documents=120,
        queries=1,
        query_source="titles",
        known_item_full=0.3,
        query_cosine=0.99,
        document_cosine=0.98,
        alone=agreement,
        kept=None,
        changed=(Changed(query=SHARP, overlap=0.9, full="a", small="b"),),
    )


def test_what_is_shown_is_what_the_terminal_prints(plan, report, planned):
    assert_same(plan_table(plan), plan)
    assert_same(importance_table(report), report)
    assert_same(points_table(planned), planned)
    assert_same(fidelity_table(fidelity()), fidelity())
    rows = [evaluation("full"), evaluation(SHARP, parameters=1_000_000)]
    assert_same(comparison_table(rows), Comparison(rows))
    assert_same(comparison_table(rows[1:]), rows[1])
    found = [evaluation("full", search="BM25 + flat"), rows[1]]
    assert_same(search_table(found), Comparison(found))


def test_a_plan_has_a_bar_for_what_stays_and_the_scores_a_shade(plan, report):
    shown = Read(plan_html(plan, report, SHARP))
    assert shown.rows[-1] == [SHARP]
    columns = dict(zip(shown.rows[0], zip(*shown.styles[1:5], strict=True), strict=True))
    ends = {
        name: [re.findall(r"(\d+)%", style)[1] for style in columns[name]]
        for name in ("attention", "MLP width")
    }
    assert ends == {"attention": ["0", "100", "100", "100"], "MLP width": ["100", "0", "25", "100"]}
    for name, scores in (("MLP score", report.mlp), ("attention score", report.attention)):
        shades = [style.rpartition("rgba(")[2].split(",")[-1] for style in columns[name]]
        known = [place for place, score in enumerate(scores) if score is not None]
        deeper = sorted(known, key=lambda place: float(shades[place].rstrip(")")))
        assert deeper == sorted(known, key=lambda place: scores[place])
    assert "rgba" not in columns["attention score"][1]


def test_shades_of_equal_values_and_of_none():
    assert len(set(heat([0.5, 0.5]))) == 1
    assert heat([None, None]) == ["", ""]
    assert bar(1.5) == bar(1.0) != bar(0.0) == bar(-1.0)


def test_every_text_is_escaped():
    html = html_rows([[SHARP]], headings=[SHARP], totals=[SHARP], title=SHARP, note=SHARP)
    shown = Read(html)
    assert (shown.rows, shown.rest) == ([[SHARP]] * 4, [SHARP])
    assert "b" not in shown.tags
    assert Read(html_fields(SHARP, {SHARP: [SHARP]})).rows == [[SHARP, SHARP]]


def test_marks_of_the_terminal_are_left_out_and_names_kept_as_they_are():
    table = Table("[bold]heading[/]", title=escape(SHARP))
    table.add_row(escape("a[b]:dog:"))
    shown = Read(html_table(table))
    assert (shown.rows, shown.rest) == ([["heading"], ["a[b]:dog:"]], [SHARP])


def test_of_a_long_table_both_ends_are_shown():
    rows = Read(html_rows([[str(number)] for number in range(200)])).rows
    assert [rows[0], rows[30], rows[-1]] == [["0"], ["… 140 more …"], ["199"]]
    assert len(rows) == MOST_ROWS + 1
    assert len(Read(html_rows([["x"]] * MOST_ROWS)).rows) == MOST_ROWS


def test_fields_that_are_none_are_left_out():
    values = {"same_base": True, "size": 12345, "cosine": 0.99, "map": None, "of": {"a": (1, 2)}}
    assert Read(html_fields("Paired", values)).rows == [
        ["same base", "yes"],
        ["size", "12,345"],
        ["cosine", "0.99"],
        ["of", "a: 1, 2"],
    ]


def test_an_encoder_says_what_it_is(tmp_path):
    encoder = effir.load(save_bare("qwen3", tmp_path / "bare"), prompts=PROMPTS, device="cpu")
    made = effir.export(encoder, plan_for(encoder), tmp_path / "pruned", space=SPACE)
    shown = dict(Read(made._repr_html_()).rows)
    assert shown == {
        "model": "pruned",
        "type": "effir_qwen3",
        "parameters": f"{sum(x.numel() for x in made.parameters()):,}",
        "dimension": "32",
        "pooling": "lasttoken, then Normalize",
        "prompts": "query: 'w50 w51 w52 w53 w54 ', document: 'w55 '",
        "similarity": "cosine",
        "max length": "32 tokens",
        "dtype": "float32",
        "device": "cpu",
        "space": "that of full",
    }


def test_a_pair_has_a_column_for_each_of_its_encoders(tmp_path):
    encoder = effir.load(save_bare("qwen3", tmp_path / "bare"), device="cpu")
    encoder.save_pretrained(str(tmp_path / "full"), create_model_card=False)
    made = effir.export(encoder, plan_for(encoder), tmp_path / "pruned")
    made.max_seq_length = 16
    made.save_pretrained(str(tmp_path / "small"), create_model_card=False)
    out = effir.pair(tmp_path / "small", tmp_path / "full", tmp_path / "out").out
    head, *rows = Read(effir.load(out, device="cpu")._repr_html_()).rows
    shown = {name: each for name, *each in rows}
    assert head == ["", "query", "document"]
    assert shown["type"] == ["effir_qwen3", "qwen3"]
    assert shown["max length"] == ["16 tokens", "32 tokens"]


def test_every_verb_gives_what_a_notebook_can_show():
    classes = {effir.Encoder, effir.RetrievalData, effir.ImportanceReport, effir.PruningPlan}
    for name in effir.__all__:
        verb = getattr(effir, name)
        if inspect.isfunction(verb):
            module = importlib.import_module(verb.__module__)
            given = getattr(module, str(inspect.signature(verb).return_annotation), None)
            if inspect.isclass(given) and given.__module__.startswith(effir.__name__):
                classes.add(given)
    named = {each.__name__ for each in classes}
    assert named >= {"Comparison", "Compressed", "Evaluation", "Fidelity", "Planned", "Trimmed"}
    assert not [each for each in classes if not hasattr(each, "_repr_html_")]


def test_data_are_not_printed_text_by_text():
    data = effir.RetrievalData(
        name="some",
        split="test",
        documents={"d": "x" * 500},
        queries={"q": "y"},
        qrels={"q": {"d": 1}},
    )
    assert repr(data) == "RetrievalData(some, test: 1 documents, 1 queries)"
    assert ["judgements", "1"] in Read(data._repr_html_()).rows
    assert repr(effir.Calibration(texts=("x" * 500,), source="texts")) == (
        "Calibration(1 texts of texts)"
    )


def test_nothing_is_imported_before_a_notebook_asks():
    code = "import sys, effir_integrations.html_table; print('rich' in sys.modules)"
    plain = {**os.environ, "PYTHONPATH": str(Path(effir.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True)
    assert done.stdout == "False\n"
