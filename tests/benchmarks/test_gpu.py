"""The script of the GPU page, rehearsed: every section measures, and what is wrong is said."""

from __future__ import annotations

import json
import math
import time

# last, because the scripts there have names such as `encode`
import gpu
import pytest
from gpu_sections import correctness
from gpu_sections.clock import Clock, OutOfTime
from gpu_sections.inputs import MAIN, MISTRAL_7B, Cut, make_texts, make_tokenizer
from gpu_sections.meters import largest_difference, least_cosine
from gpu_sections.results import Results, Section

from effir_integrations import BaseIdentity


def read(folder):
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text()), path.with_suffix(".md").read_text()


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    gpu.main(["--out", str(folder), "--rehearse", "--minutes", "30"])
    return read(folder)


def test_every_section_has_its_rows(rehearsed):
    content, page = rehearsed
    rows = {name: section["rows"] for name, section in content["sections"].items()}
    assert {name: len(found) for name, found in rows.items()} == {
        "correctness": 10,
        "table": 5 * 3,
        "compiled": 2,
        "costs": 4,
        "nf4": 0,
    }
    assert "nf4 needs a CUDA device" in content["sections"]["nf4"]["notes"][0]
    assert not content["failures"] and content["rehearsal"] and "figures mean nothing" in page
    # a table of every section that measured, all rows in it
    assert page.count("| --- |") == 4
    assert sum(line.startswith("| ") for line in page.splitlines()) == 10 + 15 + 2 + 4 + 4 * 2


def test_checks_compare_different_models(rehearsed):
    checks = {row["check"]: row for row in rehearsed[0]["sections"]["correctness"]["rows"]}
    assert all(row["holds"] and math.isfinite(row["difference"]) for row in checks.values())
    # two precisions that gave the same vectors would have been one
    assert checks["Encoder, bf16 against fp32"]["difference"] > 1e-4
    assert checks["Encoder against SentenceTransformer, fp32"]["difference"] < 1e-5


def test_rows_are_of_pruned_models_with_times_of_their_own(rehearsed):
    rows = rehearsed[0]["sections"]["table"]["rows"]
    sizes = {row["model"]: row["non_embedding"] for row in rows}
    full = sizes.pop("full")
    assert len(sizes) == 4 and all(size < full for size in sizes.values())
    assert sizes["16 MLPs dropped, 30% of the width gone"] < sizes["16 MLPs dropped"]
    for row in rows:
        for kind, count in (("queries", 4), ("documents", 2)):
            measured = row[kind]
            assert measured["texts"] == count and len(measured["seconds"]) == 1
            assert measured["cosine"] > 0.99 and min(measured["seconds"]) > 0
            assert (row["times_full"][kind] == 1) == (row["model"] == "full")


def test_a_check_that_fails_ends_in_an_error_and_stands_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(correctness, "BF16", 1.1)
    line = ["--out", str(tmp_path), "--rehearse", "--minutes", "30", "--sections", "correctness"]
    with pytest.raises(SystemExit, match="at least 1.1 is right"):
        gpu.main(line)
    content, page = read(tmp_path)
    assert len(content["failures"]) == 3 and "**FAILED: correctness: " in page
    assert len(content["sections"]["correctness"]["rows"]) == 10


def test_without_time_every_section_is_left_out_with_a_line(tmp_path):
    gpu.main(["--out", str(tmp_path), "--rehearse", "--minutes", "0.01"])
    sections = read(tmp_path)[0]["sections"]
    assert len(sections) == 5
    assert all(section["notes"][0].startswith("Left out: ") for section in sections.values())


def section(run):
    columns = {"name": lambda row: row["name"]}
    return Section(name="own", title="T", text="How.", columns=columns, run=run, seconds=1)


@pytest.mark.parametrize(
    ("failing", "said"), [(OutOfTime(), "Cut here"), (KeyError("x"), "FAILED: KeyError: 'x'")]
)
def test_a_section_that_ends_early_keeps_its_rows(tmp_path, monkeypatch, failing, said):
    def run(setting, results, clock):
        results.add(name="first")
        raise failing

    monkeypatch.setattr(gpu, "SECTIONS", (section(run),))
    options = gpu.parser().parse_args(["--out", str(tmp_path), "--rehearse"])
    options.sections = ["own"]
    results = gpu.run(options)
    content, page = read(tmp_path)
    assert content["sections"]["own"]["rows"] == [{"name": "first"}]
    assert said in content["sections"]["own"]["notes"][0] and "| first |" in page
    assert bool(results.failures) == isinstance(failing, KeyError)


def test_nan_is_never_right(tmp_path):
    results = Results(tmp_path, "nan", {}, [])
    results.begin(section(None))
    nan = [[math.nan, 1.0]]
    assert math.isnan(least_cosine(nan, [[1.0, 1.0]]))
    assert math.isnan(largest_difference(nan, [[1.0, 1.0]]))
    assert not results.check("a", math.nan, most=1.0) and not results.check("b", math.nan, least=-1)
    assert results.check("c", 1.0, most=1.0) and results.check("d", -1.0, least=-1.0)
    assert len(results.failures) == 2


def test_an_inner_limit_ends_before_the_outer_one_and_leaves_it():
    clock = Clock(1)
    with clock.running():
        with pytest.raises(OutOfTime), clock.at_most(0.5):
            with pytest.raises(OutOfTime), clock.at_most(0.02):
                time.sleep(5)
            time.sleep(5)
        assert 50 < clock.left < 60
        time.sleep(0.01)  # no alarm is left


def test_lengths_of_texts_are_those_of_the_tokenizer():
    texts = make_texts(200, 10, 16, vocabulary=200, seed=0)
    lengths = [len(ids) for ids in make_tokenizer(200)(texts)["input_ids"]]
    assert (min(lengths), max(lengths)) == (10, 16)
    assert texts == make_texts(200, 10, 16, vocabulary=200, seed=0)


@pytest.mark.parametrize(
    ("cut", "billions"),
    [(Cut(), 7.11), (Cut(mlps=8), 5.7), (Cut(mlps=16), 4.3), (Cut(mlps=20), 3.6), (MAIN, 3.4)],
)
def test_cuts_leave_the_parameters_that_the_paper_states(cut, billions):
    base = BaseIdentity(
        name="m",
        revision=None,
        family="mistral",
        hidden_size=4096,
        mlp_widths=(14_336,) * 32,
        dropped_attention=(),
        parameters=7_110_660_096,
        attention_parameters=(41_943_040,) * 32,
        mlp_parameters=(3 * 4096 * 14_336,) * 32,
        neuron_parameters=3 * 4096,
        output_bias=False,
        fingerprint="",
    )
    plan = cut.plan(base)
    assert plan.parameters / 1e9 == pytest.approx(billions, abs=0.051)
    assert MISTRAL_7B.layers == base.layers and 31 not in plan.drop_mlp
