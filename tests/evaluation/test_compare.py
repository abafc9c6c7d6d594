from __future__ import annotations

import dataclasses
import gc
import io
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sentence_transformers import SentenceTransformer

from effir_integrations.evaluation import compare as module
from effir_integrations.evaluation.compare import compare
from effir_integrations.evaluation.evaluate import Evaluation
from effir_integrations.evaluation.speed import Speed
from effir_integrations.evaluation.tables import comparison_table, search_table

MakeBeir = Callable[..., Path]


def evaluation(model: str = "base", **changes: Any) -> Evaluation:
    values: dict[str, Any] = {
        "model": model,
        "data": "scifact",
        "split": "test",
        "metrics": {"nDCG@10": 0.5, "R@100": 0.9, "RR@10": 0.4},
        "parameters": 2_000_000,
        "non_embedding_parameters": 1_000_000,
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
    return Evaluation(**{**values, **changes})


def rows(evaluations: list[Evaluation]) -> list[list[str]]:
    table = comparison_table(evaluations)
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


def text(evaluations: list[Evaluation]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison_table(evaluations))
    return console.export_text()


def test_models_are_measured_on_the_same_data_in_the_order_given(
    model_folder: Path, smaller_folder: Path, make_beir: MakeBeir
):
    first, second = compare(
        [model_folder, str(smaller_folder)], make_beir(), max_length=8, device="cpu", speed_rounds=1
    )

    assert (first.model, second.model) == (str(model_folder), str(smaller_folder))
    assert second.parameters < first.parameters
    assert second.bytes < first.bytes
    assert first.metrics == second.metrics == {"nDCG@10": 1.0, "R@100": 1.0, "RR@10": 1.0}
    assert (first.max_length, second.max_length) == (8, 8)


def test_interleaved_speeds_replace_those_of_the_evaluation(
    model: SentenceTransformer, make_beir: MakeBeir, monkeypatch: pytest.MonkeyPatch
):
    seen: dict[str, Any] = {}

    def timed(models, documents, queries, **options):
        seen.update(models=models, documents=documents, queries=queries, **options)
        return [Speed(documents_per_second=1.0, queries_per_second=2.0, query_latency=0.003)] * 2

    monkeypatch.setattr(module, "interleaved_speed", timed)

    both = compare(
        [model, model],
        make_beir(),
        max_length=4,
        speed_rounds=5,
        speed_documents=3,
        speed_queries=9,
    )

    assert seen["models"] == [model, model]
    assert seen["documents"] == ["w0 w20 w40", "w6 w26 w46", "w11 w31 w51"]
    assert len(seen["queries"]) == 5
    assert (seen["rounds"], seen["max_length"]) == (5, 4)
    assert model.max_seq_length == 16
    for one in both:
        assert (one.documents_per_second, one.queries_per_second) == (1.0, 2.0)
        assert one.query_latency_ms == 3.0


def test_without_rounds_one_model_is_in_memory_at_a_time(
    model_folder: Path, smaller_folder: Path, make_beir: MakeBeir, monkeypatch: pytest.MonkeyPatch
):
    from effir_integrations.encoder import loading

    alive: list[weakref.ref] = []
    load = loading.load

    def counted(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        assert all(reference() is None for reference in alive)
        model = load(*arguments, **options)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loading, "load", counted)

    compare([model_folder, smaller_folder], make_beir(), speed_rounds=0)

    assert len(alive) == 2


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ([], {}, ValueError, "no models"),
        (["a/b"], {"speed_rounds": -1}, ValueError, "speed_rounds=-1"),
        (["a/b"], {"speed_documents": 0}, ValueError, "speed_documents=0"),
        (["/absent", "a/b"], {}, FileNotFoundError, "/absent is no model folder"),
        (["a/b"], {"dtype": "half"}, ValueError, "dtype 'half' is not known"),
    ],
)
def test_bad_arguments_are_found_before_the_data_are_read(models, options, error, message: str):
    with pytest.raises(error, match=message):
        compare(models, "/nowhere", **options)


def test_the_table_gives_shares_of_the_first_model():
    small = evaluation(
        "small",
        parameters=1_500_000,
        non_embedding_parameters=500_000,
        bytes=6_000_000,
        metrics={"nDCG@10": 0.49, "R@100": 0.88, "RR@10": 0.4},
        documents_per_second=1234.56,
        queries_per_second=250.0,
        query_latency_ms=4.125,
    )

    table = rows([evaluation(), small])
    assert table[0] == [
        "base", "2,000,000", "1,000,000", "8.0", "0.5000", "0.9000", "50.0", "200.0", "5.00",
    ]  # fmt: skip
    assert table[1] == [
        "small", "1,500,000", "500,000", "6.0", "0.4900", "0.8800", "1,234.6", "250.0", "4.12",
    ]  # fmt: skip
    assert table[2:] == [
        ["", "75.0%", "50.0%", "75.0%", "98.0%", "", "24.69x", "1.25x", ""],
    ]


def test_the_table_of_one_model_has_no_shares():
    assert len(rows([evaluation()])) == 1


def test_the_table_of_three_models_fits_where_there_is_no_terminal():
    models = ["effir-mini", "drop-only", "coarse-to-fine"]
    table = comparison_table([evaluation(name, parameters=10_489_088) for name in models])
    assert Console(width=120).measure(table).minimum <= 120


BIG = {
    "parameters": 7_110_660_096,
    "non_embedding_parameters": 6_979_588_096,
    "bytes": 14_221_320_192,
    "documents_per_second": 12_345.6,
    "queries_per_second": 45_678.9,
    "query_latency_ms": 1234.56,
}


@pytest.mark.parametrize("width", [80, 60, 120, 200])
@pytest.mark.parametrize("layout", [comparison_table, search_table])
def test_every_figure_is_readable_in_a_narrow_terminal(width: int, layout: Callable):
    models = ["a-model-with-a-long-name-in-a-folder/Qwen3-Embedding-0.6B-drop-14-mlp", "half"]
    evaluations = [evaluation(models[0], **BIG), evaluation(models[1], **{**BIG, "bytes": 7e9})]
    table = layout(evaluations)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    shown = console.export_text()

    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    headings = [str(column.header) for column in table.columns]
    cells = [str(cell) for column in table.columns[table.labels :] for cell in column.cells]
    for whole in (*headings, *filter(None, cells)):
        assert whole in shown.split()
    assert shown.count("scifact (test)") == shown.count("at most 256 tokens") == 1


def test_the_table_says_what_was_measured_and_how():
    shown = text([evaluation(), evaluation("half", dtype="bfloat16")])

    assert "scifact (test)" in shown
    assert "float32 / bfloat16, at most 256 tokens, batches of 32, cpu" in shown


def test_a_first_model_that_finds_nothing_gives_no_share():
    nothing = evaluation(metrics={"nDCG@10": 0.0, "R@100": 0.0, "RR@10": 0.0})

    assert [row[4] for row in rows([nothing, evaluation()])] == ["0.0000", "0.5000", ""]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["/runs/a/model", "/runs/b/model"], ["a/model", "b/model"]),
        (["/runs/a/model", "/runs/b/model", "org/base"], ["a/model", "b/model", "base"]),
        (["/x/a/m", "/y/a/m"], ["x/a/m", "y/a/m"]),
        (["model", "/runs/model"], ["model", "runs/model"]),
        (["/runs/model", "/runs/model", "/runs/model/"], ["model (1)", "model (2)", "model (3)"]),
        (["."], ["."]),
    ],
)
def test_models_with_the_same_folder_name_are_told_apart(names: list[str], labels: list[str]):
    table = rows([evaluation(name) for name in names])
    assert [row[0] for row in table if row[0]] == labels


def test_a_name_with_brackets_is_shown_as_it_is():
    assert "model[bold]" in text([evaluation("model[bold]", data="[red]")])


@pytest.mark.parametrize("changes", [{"data": "nfcorpus"}, {"split": "dev"}])
def test_evaluations_on_different_data_are_not_put_into_one_table(changes: dict):
    with pytest.raises(ValueError, match="one split of one data set"):
        comparison_table([evaluation(), dataclasses.replace(evaluation("other"), **changes)])
    with pytest.raises(ValueError, match="evaluations on nothing"):
        comparison_table([])


def test_the_table_of_searches_has_a_row_for_each_and_numbers_no_model(capsys):
    first = evaluation("some/model", search="FAISS flat")
    rows = [first, dataclasses.replace(first, search="HNSW", query_latency_ms=None)]
    rows.append(
        dataclasses.replace(first, model="BM25", search="BM25", parameters=None, max_length=None)
    )
    Console(width=140).print(search_table(rows))
    table = capsys.readouterr().out
    for expected in ("model", "FAISS flat", "HNSW", "BM25", "RR@10"):
        assert expected in table
    assert "(1)" not in table
    assert "None" not in table


def test_a_table_of_searches_is_of_one_data_set():
    with pytest.raises(ValueError, match="one data set"):
        search_table([evaluation(), evaluation(data="other")])
