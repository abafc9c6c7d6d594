"""A target comes in and a plan goes out that meets it, or the nearest one is named."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import WORDS, save_bare
from verbs import effir, effir_json, refused

from effir_integrations import CompressConfig, PlanConfig, PruningPlan, compress, load, plan
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.search_vectors import search_vectors
from effir_integrations.evaluation.plots import front_plot
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.pruning import trial as trial_module
from effir_integrations.pruning.candidates import Candidate
from effir_integrations.pruning.costs import running, thinned
from effir_integrations.pruning.plan import take_point
from effir_integrations.pruning.trial import Trial, read_material

SMALL = {"multiple_of": 8, "candidates": 2, "calibration_texts": 30, "queries": 40}


@pytest.fixture(scope="module", autouse=True)
def little_is_timed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_module, "_TIMED", {"document": 4, "query": 4})
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "llama"
    save_bare("llama", folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Texts with titles that say how they begin."""
    draw = random.Random(0)
    rows = []
    for number in range(160):
        words = [draw.choice(WORDS) for _ in range(12)]
        rows.append({"_id": str(number), "title": " ".join(words[:4]), "text": " ".join(words)})
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def uncorpused(base, tmp_path_factory):
    """A run folder of the shipped texts, whose costs others need not measure again."""
    out = tmp_path_factory.mktemp("uncorpused")
    return out, plan(base, out, PlanConfig(memory=0.05, multiple_of=8, calibration_texts=8))


def with_costs(run, folder):
    shutil.copyfile(run[0] / "costs.json", folder / "costs.json")
    return folder


@pytest.fixture(scope="module")
def run(base, corpus, tmp_path_factory):
    """A run folder whose plan has at most 0.9 of the parameters."""
    out = tmp_path_factory.mktemp("run")
    return out, plan(base, out, PlanConfig(keep_parameters=0.9, **SMALL), texts=corpus)


def whole(trial):
    widths = trial.base.mlp_widths
    return Candidate(drop_attention=(), widths=widths, milliseconds=1.0, parameters=0, error=0.0)


def test_the_plan_meets_its_target_and_can_be_exported(run, base, tmp_path):
    out, found = run
    identity = BaseIdentity.of(transformer_model(load(base)))
    assert found.plan.parameters <= 0.9 * identity.parameters
    point = found.points[found.chosen]
    assert (point.measured, point.parameters) == (True, found.plan.parameters)
    assert point.mlp_widths == found.plan.mlp_widths
    assert point.quality_interval[0] <= point.quality <= point.quality_interval[1]
    effir("export", out, tmp_path / "small")
    assert load(tmp_path / "small").encode("w1 w2").shape == (identity.hidden_size,)


def test_the_best_of_those_that_were_made_is_chosen(run):
    _, found = run
    made = [point for point in found.points if point.measured]
    assert len(made) == SMALL["candidates"]
    assert found.points[found.chosen].quality == max(point.quality for point in made)
    times = [point.latency for point in found.points]
    assert times == sorted(times, reverse=True)


def test_another_point_is_taken_by_its_number(run, base):
    out, found = run
    other = next(x for x, point in enumerate(found.points) if not point.measured)
    made = take_point(base, out, other)
    assert made.mlp_widths == PruningPlan.load(out).mlp_widths == found.points[other].mlp_widths
    assert made.drop_attention == found.points[other].drop_attention
    take_point(base, out, found.chosen)
    with pytest.raises(ValueError, match=f"no point 99; choose 0 to {len(found.points) - 1}"):
        take_point(base, out, 99)


def test_a_model_that_finds_few_known_items_cannot_be_judged_by_them(base, corpus):
    encoder, config = load(base), PlanConfig(keep_parameters=0.9, **SMALL)
    material = read_material(str(corpus), config)
    asked = material.questions
    elsewhere = [(place + 65) % len(asked.documents) for place in asked.answers]
    strange = replace(material, questions=replace(asked, answers=elsewhere))
    trial = Trial(encoder, strange, config, False)
    with pytest.raises(ValueError, match=r"finds \d of 40 known items .*, too few to"):
        trial.quality(PruningPlan(base=trial.base))


def test_a_point_is_of_its_own_model(run, tmp_path):
    save_bare("llama", tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="weights"):
        take_point(tmp_path / "other", run[0], 0)


def test_known_items_are_never_calibrated_on(corpus):
    material = read_material(str(corpus), PlanConfig(latency=0.5, **SMALL))
    fitted = set(material.calibration.texts)
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    texts = {f"{row['title']} {row['text']}" for row in rows}
    assert len(fitted) == 30 and fitted <= texts
    asked = material.questions
    assert len(asked.documents) == 130
    titles = {
        text.removesuffix(x["text"]).strip()
        for x in rows
        for text in fitted
        if text.endswith(x["text"])
    }
    assert not titles & set(asked.queries)


def test_what_is_timed_has_the_asked_length_and_role(corpus):
    config = PlanConfig(latency=0.5, role="query", length=20, batch=3, **SMALL)
    work = read_material(str(corpus), config).work
    assert (work.role, work.batch, work.max_length) == ("query", 3, 20)
    assert all(len(text.split()) >= 20 for text in work.texts)


@pytest.mark.parametrize("role", ["document", "query"])
def test_quality_is_what_a_search_by_hand_finds(role, base, corpus):
    config = PlanConfig(latency=0.5, role=role, **SMALL)
    encoder = load(base)
    trial = Trial(encoder, read_material(str(corpus), config), config, False)
    assert trial.quality(PruningPlan(base=trial.base)).share == 1
    half = Candidate(
        drop_attention=(0,),
        widths=tuple(x // 2 for x in trial.base.mlp_widths),
        milliseconds=1.0,
        parameters=0,
        error=0.0,
    )
    made, asked = trial.make(half), trial.material.questions
    assert (made.mlp_widths, made.drop_attention) == (half.widths, (0,))

    def vectors():
        return [
            search_vectors(encoder, texts, kind=kind)
            for texts, kind in ((asked.queries, "query"), (asked.documents, "document"))
        ]

    def mean_reciprocal_rank(queries, documents):
        order = np.argsort(-queries @ documents.T, axis=1, kind="stable")[:, :10]
        ranks = [np.flatnonzero(row == x) for row, x in zip(order, asked.answers, strict=True)]
        return np.mean([1 / (1 + rank[0]) if len(rank) else 0 for rank in ranks])

    full = vectors()
    with running(encoder, thinned(transformer_model(encoder), made)):
        queries, documents = vectors()
    expected = mean_reciprocal_rank(queries, full[1] if role == "query" else documents)
    assert trial.quality(made).share == pytest.approx(expected / mean_reciprocal_rank(*full))


def test_without_a_corpus_the_plan_of_least_error_is_made_and_not_judged(uncorpused):
    _, found = uncorpused
    assert found.points[found.chosen].megabytes <= 0.05
    assert [point.measured for point in found.points].count(True) == 1
    assert {point.quality for point in found.points} == {None}


def test_the_fastest_that_keeps_the_quality_is_written_in_one_line(base, corpus, tmp_path):
    config = CompressConfig(keep_quality=0.2, multiple_of=8, calibration_texts=30)
    made = compress(base, tmp_path / "small", config, texts=corpus)
    record = made.plan.made_by[0]
    assert record["stage"] == "plan" and record["found"]["quality"] >= 0.2
    assert made.plan.parameters < made.plan.base.parameters


def test_quality_that_nothing_keeps_is_refused_with_the_nearest(run, base, corpus, tmp_path):
    with_costs(run, tmp_path)
    config = PlanConfig(keep_quality=0.999999, keep_parameters=0.7, **SMALL)
    with pytest.raises(ValueError, match=r"no plan .* 100.0%.*nearest keeps .* parameters: lower"):
        plan(base, tmp_path, config, texts=corpus)
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("targets", [{"keep_parameters": 1e-6}, {"memory": 1e-6}])
def test_a_size_that_no_plan_comes_down_to_is_refused_before_anything_is_measured(
    base, tmp_path, targets
):
    with pytest.raises(ValueError, match=r"parameters cannot be met: the smallest plan has"):
        plan(base, tmp_path, PlanConfig(**targets, **SMALL))
    assert not (tmp_path / "costs.json").exists()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"latency": 1e-6}, r"latency=1e-06 cannot be met: the fastest plan takes 0\.\d+"),
        ({"keep_parameters": 1e-6}, r"parameters cannot be met: the smallest plan has [\d,]+"),
        ({"memory": 1e-6}, r"parameters cannot be met: the smallest plan has [\d,]+ .* MB"),
        ({}, "nothing to plan for: give a share of quality"),
        ({"keep_quality": 0.9}, "keep_quality=0.9 is measured on a corpus of yours"),
    ],
)
def test_a_target_that_cannot_be_met_is_refused_with_what_can(
    targets, message, base, uncorpused, tmp_path
):
    with_costs(uncorpused, tmp_path)
    with pytest.raises(ValueError, match=message):
        plan(base, tmp_path, PlanConfig(multiple_of=8, calibration_texts=8, **targets))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency": 1.5}, "latency=1.5 must lie between 0 and 1"),
        ({"memory": 0.0}, "memory=0.0 must be above 0"),
        ({"latency": 0.5, "role": "both"}, "role='both' is not known; choose document, query"),
        ({"latency": 0.5, "batch": 0}, "batch=0 must be at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PlanConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_quality": 1.5}, "keep_quality=1.5 must lie between"),
        ({"keep_quality": 0.9, "keep_neurons": 0.5}, "keep_quality=0.9 finds out what goes"),
        ({"keep_quality": 0.9, "from_disk": True}, "leave from_disk and method out"),
    ],
)
def test_compress_takes_a_quality_or_what_goes(settings, message):
    with pytest.raises(ValueError, match=message):
        CompressConfig(**settings)


def test_texts_too_few_to_judge_are_refused_with_how_many_are_needed(base, tmp_path):
    texts = ["w1 w2 w3 w4 w5"] * 150
    with pytest.raises(ValueError, match="75 documents are too few.*at least 100"):
        plan(base, tmp_path, PlanConfig(latency=0.5), texts=texts)
    with pytest.raises(ValueError, match="0 queries are too few.*at least 20"):
        plan(base, tmp_path, PlanConfig(latency=0.5, calibration_texts=8), texts=texts)


def test_costs_that_are_there_are_used_and_those_of_other_threads_refused(
    uncorpused, base, tmp_path
):
    config = PlanConfig(memory=0.05, multiple_of=8, calibration_texts=8)
    with_costs(uncorpused, tmp_path)
    assert plan(base, tmp_path, config).costs == uncorpused[1].costs
    assert plan(base, tmp_path, config, force=True).costs != uncorpused[1].costs
    (tmp_path / "plan.json").unlink()
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="threads 1, and now it is 2.*--force"):
        plan(base, tmp_path, config)


def test_a_plan_that_is_there_is_not_replaced_unasked(run, base):
    with pytest.raises(ValueError, match="holds a plan already.*--force.*--point"):
        plan(base, run[0], PlanConfig(latency=0.5))


def test_the_command_shows_its_points_and_takes_another(base, corpus, tmp_path):
    given = ["plan", base, "--out", tmp_path / "run", "--texts", corpus, "--params", 0.9]
    given += [x for name, value in SMALL.items() for x in (f"--{name.replace('_', '-')}", value)]
    table = effir(*given, "--plot", tmp_path / "front.png").stdout
    assert "<-" in table and "quality kept" in table.replace("\n", " ")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    taken = effir_json("plan", base, "--out", tmp_path / "run", "--point", 0)
    kept = json.loads((tmp_path / "run" / "points.json").read_text())
    assert kept["chosen"] == 0
    assert taken["mlp_widths"] == kept["points"][0]["mlp_widths"]
    message = refused("plan", base, "--out", tmp_path / "run", "--point", 0, "--latency", 0.5)
    assert "leave targets and texts out" in message


def test_a_plot_is_a_png(tmp_path):
    with pytest.raises(ValueError, match=r"front.jpg does not end in .png"):
        front_plot([(0.5, 0.9, True)], 0, "plans", tmp_path / "front.jpg")
