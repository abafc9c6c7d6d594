"""The script behind the page of claims: every claim, found again, and verdicts by their rules."""

from __future__ import annotations

import gc
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

# last, because the scripts there have names such as `encode`
import measure_claims as claims
import pytest
from claims import lab as claims_lab
from claims.checks import (
    Check,
    Gain,
    beats,
    coarse_to_fine,
    correlation,
    drop_order,
    dropping,
    isotropy,
    keeps,
    overall,
    pooling,
    speed,
    table_of,
    verdict,
)
from claims.inside import pooling_losses
from claims.overview import readings, save_verdicts, write_overview
from claims.quality import TUNED, sizes
from claims.texts import query_texts, training_rows
from claims.variants import FULL, Quality, Variant
from subset import subset
from tiny import WORDS, save_bare

import effir_integrations.evaluation.encoded
from effir_integrations import load

SMALLEST = [
    *("--max-length", "16", "--head-length", "24", "--steps", "2", "--slim-steps", "2"),
    *("--batch", "4", "--multiple-of", "16", "--rounds", "2", "--speed-texts", "4"),
    *("--isotropy-queries", "30", "--dtype", "fp32", "--device", "cpu"),
    *("--threads", "1"),  # timings are found again at the same number only
    "--no-quantised",
]


def write_data(folder: Path, seed: int) -> Path:
    """Thirty documents with titles, six train and six test queries."""
    generator = random.Random(seed)
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {
            "_id": f"d{i}",
            "title": f"w{i} w{seed}",
            "text": " ".join(generator.sample(WORDS, 9)) + ".",
        }
        for i in range(30)
    ]
    queries = [{"_id": f"q{i}", "text": corpus[i]["text"][:14]} for i in range(12)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, chosen in (("train", range(6)), ("test", range(6, 12))):
        rows = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in chosen)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The command line that is the same for all runs, without claims."""
    folder = tmp_path_factory.mktemp("claims")
    prompts = {"query": "w50 ", "document": "w51 "}
    for name, seed in (("model", 0), ("base", 1)):
        encoder = load(save_bare("mistral", folder / f"bare-{name}", seed=seed), prompts=prompts)
        encoder.save(str(folder / name))
    data = write_data(folder / "facts", 1)
    docstrings = write_data(folder / "docs", 2)
    return [
        *("--data", str(data), "--docstrings", str(docstrings), "--model", str(folder / "model")),
        *("--base", str(folder / "base"), "--work", str(folder / "work")),
        *("--out", str(folder / "page" / "results.md"), "--debug", *SMALLEST),
    ]


def options_of(line, *more):
    return claims.parser().parse_args([*line, *more])


@pytest.fixture(scope="module")
def finished(line):
    """A run that was killed in claim 2, then run again to the end; it counts what was measured."""
    measured = []
    evaluate = claims_lab.measure_quality

    def counted(*arguments):
        if len(measured) == killed_after:
            raise KeyboardInterrupt
        measured.append(arguments)
        return evaluate(*arguments)

    gc.freeze()  # every training collects garbage, among all that was imported
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims_lab, "measure_quality", counted)
        # not on the page, and most of the time of an evaluation this small
        patch.setattr(effir_integrations.evaluation.encoded, "query_latency", lambda *_, **__: 0.0)
        killed_after = 30
        with pytest.raises(KeyboardInterrupt):
            claims.main([*line, "--claims", "1", "2"])
        rows = json.loads((options_of(line).work / "rows.json").read_text())
        killed_after = -1
        sections = claims.run(options_of(line))
    gc.unfreeze()
    return sections, rows, measured


def test_every_claim_gets_its_section_its_table_and_its_plots(finished, line):
    sections, _, _ = finished
    page = options_of(line).out
    text = page.read_text()
    assert [line[:5] for line in text.splitlines() if line.startswith("## ")] == [
        f"## {number}." for number in range(1, 8)
    ]
    assert text.count("**Does it hold here?") == 7 and "Not run." not in text
    images = sorted((page.parent / "results").glob("*.png"))
    assert len(images) == 11
    for image in images:
        assert f"(results/{image.name})" in text
        assert image.read_bytes().startswith(b"\x89PNG") and image.stat().st_size < 60_000
    assert all(section.tables and section.questions for section in sections.values())


def test_the_page_over_all_models_has_a_column_for_each(finished, line, tmp_path):
    sections, _, _ = finished
    lab = claims_lab.Lab(options_of(line))
    lab.name = "first"
    save_verdicts(lab, sections, tmp_path / "results" / "first")
    lab.name, lab.base = "larger", replace(lab.base, parameters=lab.base.parameters + 1)
    save_verdicts(lab, {1: sections[1], 2: None}, tmp_path / "results" / "larger")
    write_overview(tmp_path / "results", tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "* [first](results/first.md): 4 layers" in text
    assert "| claim | first | larger |" in text
    first = overall(sections[1].questions)
    assert f"no retraining | {first} | {first} |" in text
    assert f"fine-tuning | {overall(sections[2].questions)} | not run |" in text
    question = sections[1].questions[0]
    held = sum(check.held for check in question.checks)
    cell = f"{question.verdict} ({held} of {len(question.checks)})"
    assert f"| {question.text} | {cell} | {cell} |" in text
    for number, reading in readings().items():
        assert f"## {number}. " in text and f"Our reading: {reading}" in text


def test_an_encoder_is_not_asked_what_is_about_last_tokens(line, tmp_path):
    encoder = load(save_bare("bert", tmp_path / "bare"))
    encoder.save(str(tmp_path / "bert"))
    out = tmp_path / "page" / "bert.md"
    words = ["--model", str(tmp_path / "bert"), "--work", str(tmp_path), "--claims", "5"]
    arguments = options_of(line, *words, "--out", str(out))
    arguments.base = None
    sections = claims.run(arguments)
    assert sections[5].questions == [] and sections[1] is None
    text = out.read_text()
    assert "| not asked |" in text and "bert is an encoder" in text


def test_the_mean_is_the_own_pooling_of_a_decoder_that_pools_it(line, tmp_path):
    encoder = load(save_bare("mistral", tmp_path / "bare"), pooling="mean")
    encoder.save(str(tmp_path / "mean"))
    model = ["--model", str(tmp_path / "mean"), "--work", str(tmp_path / "work")]
    lab = claims_lab.Lab(options_of(line, *model))
    losses, table = pooling_losses(lab, [1])
    full = lab.quality(FULL, lab.scifact.name)
    assert lab.pooling == "mean" and f"| facts, mean | {full.ndcg:.4f} |" in table
    assert {kind for _, _, kind in losses} == {"lasttoken", "mean"}
    kinds = [row["settings"]["pooling"] for row in lab.rows.used.values()]
    assert sorted(set(kinds)) == ["lasttoken", "own"]


def test_a_part_of_the_data_holds_what_its_queries_look_for(line):
    whole = claims_lab.Lab(options_of(line)).scifact
    part = subset(whole, queries=2, others=3)
    assert len(part.queries) == 2 and len(part.documents) == 5
    for query in part.queries:
        assert part.relevant(query) == whole.relevant(query) != []
    assert part == subset(whole, queries=2, others=3) != subset(whole, queries=2, others=3, seed=1)
    assert subset(whole).queries == whole.queries
    assert subset(whole, others=99).documents == whole.documents


def test_a_run_that_was_killed_goes_on_and_measures_nothing_twice(finished, line):
    _, rows_then, measured = finished
    rows = json.loads((options_of(line).work / "rows.json").read_text())
    assert len(rows_then) == 30 and rows_then.items() <= rows.items()
    kinds = [row["kind"] for row in rows.values()]
    assert kinds.count("quality") == len(measured)


def test_the_page_is_written_again_without_measuring(finished, line, monkeypatch):
    page = options_of(line).out
    overview = page.parent.with_suffix(".md")
    texts = [path.read_text() for path in (page, overview)]
    page.unlink()
    overview.unlink()
    monkeypatch.setattr(claims_lab, "measure_quality", None)
    claims.main([*line, "--render-only"])
    assert [path.read_text() for path in (page, overview)] == texts


def test_claims_that_were_not_run_say_so(finished, line, tmp_path):
    out = tmp_path / "results.md"
    claims.main([*line, "--out", str(out), "--render-only", "--rate", "1"])
    text = out.read_text()
    # what needs no fine-tuning is still known
    assert text.count("Not run.") == 4 and text.count("**Does it hold here?") == 3


def test_the_same_elsewhere_gives_the_same_figures(finished, line, tmp_path):
    labs = [claims_lab.Lab(options_of(line, *more)) for more in ((), ("--work", str(tmp_path)))]
    labs[0].rows.measuring = False
    for variant in (TUNED, Variant(attention=1), replace(sizes(labs[0])[0][1], tuned=True)):
        known, again = (lab.quality(variant, lab.scifact.name) for lab in labs)
        assert abs(known.ndcg - again.ndcg) <= 0.002


def test_models_of_one_size_have_as_many_neurons(finished, line):
    lab = claims_lab.Lab(options_of(line))
    for group in sizes(lab):
        plans = [lab.plan(variant) for variant in group]
        neurons = {sum(plan.mlp_widths) for plan in plans}
        assert len(neurons) == 1 and not any(plan.drop_attention for plan in plans)


def test_training_sees_no_test_query(line):
    options = options_of(line, "--steps", "10")
    lab = claims_lab.Lab(options)
    rows = training_rows(options, lab.scifact, lab.docstrings)
    queries = {row["query"] for row in rows}
    tested = {*lab.scifact.queries.values(), *lab.docstrings.queries.values()}
    assert len(rows) == 6 + 2 * 17 and not queries & tested
    # the first document becomes a test query, word for word
    data = replace(lab.scifact, queries={"q6": rows[0]["query"]}, qrels={"q6": {"d6": 1}})
    assert rows[0] not in training_rows(options, data, lab.docstrings)


def test_isotropy_takes_queries_before_sentences(line):
    options = options_of(line)
    lab = claims_lab.Lab(options)
    texts = query_texts(options, lab.docstrings)
    assert len(texts) == len(set(texts)) == 30
    assert texts[6:12] == list(lab.docstrings.queries.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere/at/all"], "give a BEIR folder"),
        (["--data", "{docs}"], "both data sets are called docs"),
        (["--model", "nowhere/at/all"], "is no model folder"),
    ],
)
def test_what_will_not_do_is_refused_in_one_line(line, change, message, capsys, tmp_path):
    place = {"docs": str(options_of(line).docstrings)}
    plain = [word for word in line if word != "--debug"]
    with pytest.raises(SystemExit) as stopped:
        claims.main([*plain, "--work", str(tmp_path), *(word.format(**place) for word in change)])
    shown = capsys.readouterr().err
    assert stopped.value.code == 2 and message in shown and shown.count("\n") == 1


def test_data_without_train_queries_are_refused(line, tmp_path):
    data = write_data(tmp_path / "facts", 1)
    (data / "qrels" / "train.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="no judgements for split 'train'"):
        claims.main([*line, "--data", str(data)])


def test_a_model_that_is_replaced_meanwhile_is_not_measured_as_the_one_before(line, tmp_path):
    options = options_of(line, "--work", str(tmp_path))
    options.model = shutil.copytree(options.model, tmp_path / "model")
    lab = claims_lab.Lab(options)
    shutil.copyfile(options.base / "model.safetensors", options.model / "model.safetensors")
    with pytest.raises(RuntimeError, match="is another model than when this run began"):
        lab.quality(FULL, lab.scifact.name)
    assert not (tmp_path / "rows.json").exists()


def test_readings_are_found_by_number(tmp_path):
    path = tmp_path / "readings.md"
    path.write_text("# What we make of it\n\n## 2\n\nIt does.\nMostly.\n\n## 3\n\n## 7\nNo.\n")
    assert readings(path) == {2: "It does.\nMostly.", 7: "No."}
    assert readings(tmp_path / "none.md") == {}


def checks(*held):
    return [Check(text="", held=each) for each in held]


def test_verdicts_are_yes_partly_and_no():
    assert verdict(checks(True, True)) == "yes"
    assert verdict(checks(True, False)) == "partly"
    assert verdict(checks(False, False)) == "no"
    assert verdict([]) == "not measured"


def rows_of(figures, wide=0.0):
    """Rows of made-up figures on two data sets, the same on both; queries differ by `wide`."""
    return table_of(
        Quality(
            variant=variant,
            data=data,
            ndcg=ndcg,
            recall=1,
            parameters=1,
            megabytes=1,
            by_query={str(query): ndcg + wide * (query % 2 - 0.5) for query in range(40)},
        )
        for variant, ndcg in figures.items()
        for data in ("first", "second")
    )


@pytest.mark.parametrize(
    ("mlp", "attention", "expected"),
    [(0.58, 0.5, "yes"), (0.56, 0.57, "partly"), (0.3, 0.57, "no")],
)
def test_dropping_compares_mlps_with_the_others_and_with_the_full_model(mlp, attention, expected):
    figures = {FULL: 0.6}
    for count in (2, 4):
        figures |= {
            Variant(mlp=count): mlp,
            Variant(attention=count): attention,
            Variant(block=count): 0.55,
        }
    assert overall(dropping(rows_of(figures), [2, 4], tuned=False)) == expected


def test_a_difference_within_its_interval_does_not_hold():
    """Two of three queries are better, the others so much worse that the mean hardly rises."""
    worse, better = (rows_of({Variant(mlp=1): 0.5})[Variant(mlp=1), "first"] for _ in range(2))
    figures = {name: 0.5 + (0.02 if int(name) % 3 else -0.03) for name in worse.by_query}
    mean = sum(figures.values()) / len(figures)
    rows = table_of(
        [
            replace(better, variant=Variant(mlp=2), ndcg=mean, by_query=figures),
            replace(worse, variant=FULL),
        ]
    )
    assert mean > 0.5
    (check,) = beats(rows, Variant(mlp=2), FULL)
    assert not check.held and "(difference -0.00" in check.text
    (check,) = keeps(rows, Variant(mlp=2), least=0.999)
    assert not check.held
    (check,) = keeps(rows, Variant(mlp=2), least=0.98)
    assert check.held


@pytest.mark.parametrize(("slim", "expected"), [(0.6, "yes"), (0.4, "no")])
def test_reconstruct_does_not_count_for_what_the_paper_says_of_gates(slim, expected):
    depth, gates, refit = Variant(mlp=4), Variant(mlp=2, width="slim"), Variant(mlp=2, width="r")
    figures = {depth: 0.5, gates: slim, refit: 0.6}
    questions = coarse_to_fine(rows_of(figures), [(depth, gates, refit)])
    assert overall(questions) == expected
    assert [question.verdict for question in questions] == [expected, "yes"]


def test_drop_order_asks_for_depth_for_a_shared_order_and_for_widths():
    falling, rising = [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]
    widths = {"slim": [0, 48, 32, 16], "reconstruct": [16, 32, 48, 0]}
    alone = drop_order({"retriever": {"mlp": falling}}, widths)
    assert [question.verdict for question in alone] == ["yes", "not measured", "yes", "no"]
    assert overall(alone) == "yes"
    other = drop_order({"retriever": {"mlp": rising}, "base": {"mlp": falling}}, widths)
    assert [question.verdict for question in other] == ["no", "no", "yes", "no"]
    assert overall(other) == "partly"
    assert correlation([1, 1, 1], falling[:3]) == 0


def test_pooling_asks_which_loses_more():
    losses = {("facts", 2, "lasttoken"): 0.3, ("facts", 2, "mean"): 0.1}
    gaps = {"full": 0.5, "2 attentions": 0.1, "2 MLPs": 0.45}
    assert [question.verdict for question in pooling(losses, gaps)] == ["yes", "yes"]
    losses["facts", 2, "mean"] = 0.4
    assert [question.verdict for question in pooling(losses, gaps | {"2 MLPs": 0.0})] == [
        "no",
        "no",
    ]


def test_speed_asks_for_time_and_for_what_8_bits_cost():
    mlp, attention = Variant(mlp=2, tuned=True), Variant(attention=2, tuned=True)
    fine = Variant(mlp=2, width="reconstruct", keep=0.5, tuned=True)
    fast, slow = Gain(lowest=1.3, median=1.4), Gain(lowest=0.9, median=1.1)
    gains = {
        (variant, kind): gain
        for variant, gain in ((mlp, fast), (attention, slow), (fine, Gain(lowest=1.5, median=1.6)))
        for kind in ("documents", "queries")
    }
    found = speed(gains, [2], (fine, mlp), {"full": (0.5, 0.499)})
    assert [question.verdict for question in found] == ["yes", "yes"]
    gains[mlp, "queries"] = slow
    found = speed(gains, [2], (fine, mlp), {"full": (0.5, 0.4), "fine": (0.5, 0.5)})
    assert [question.verdict for question in found] == ["partly", "partly"]
    assert speed(gains, [2], (fine, mlp), {})[1].verdict == "not measured"


def test_isotropy_asks_for_the_rise():
    pruned = Variant(mlp=4, tuned=True)
    assert overall(isotropy({FULL: 0.2, pruned: 0.26}, FULL, [pruned])) == "yes"
    assert overall(isotropy({FULL: 0.2, pruned: 0.36}, FULL, [pruned])) == "no"
