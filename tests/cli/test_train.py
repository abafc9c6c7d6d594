"""The training verbs end to end on a tiny model, and one plain line for every bad input."""

from __future__ import annotations

import json
import random

import pytest
from sentence_transformers import SentenceTransformer
from tiny import WORDS, save_bare
from verbs import effir, effir_json, refused

GATES = ["--paper", "--steps", 3, "--batch-size", 4, "--negatives", 2, "--multiple-of", 8]
QUICK = ["--steps", 3, "--batch-size", 4, "--rank", 4]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_bare("llama", tmp_path_factory.mktemp("base") / "tiny-llama")


def rows(scored=True):
    generator = random.Random(0)

    def text():
        return " ".join(generator.choice(WORDS) for _ in range(6))

    made = [{"query": text(), "pos": [text()], "neg": [text(), text()]} for _ in range(12)]
    if scored:
        made = [{**row, "pos_scores": [2.5], "neg_scores": [0.5, -1]} for row in made]
    return made


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    path = tmp_path_factory.mktemp("train") / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    return path


@pytest.fixture(scope="module")
def run_folder(base, train, tmp_path_factory):
    """A run folder with two MLPs dropped and the rest slimmed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    effir_json("drop", base, "--out", folder, "--mlp-layers", "1")
    effir_json("slim", folder, "--train", train, "--sparsity", 0.4, *GATES)
    return folder


def test_slim_writes_gates_and_a_plan_and_is_not_repeated(run_folder, train, tmp_path):
    plan = json.loads((run_folder / "plan.json").read_text())
    assert [record["stage"] for record in plan["made_by"]] == ["drop", "slim"]
    assert plan["mlp_widths"][1] == 0 and sum(plan["mlp_widths"]) <= 0.6 * 3 * 48 + 8
    assert all(width % 8 == 0 for width in plan["mlp_widths"])
    gates = run_folder / "slim" / "gates.safetensors"
    before = gates.stat().st_mtime_ns
    again = ["slim", run_folder, "--train", train, "--sparsity", 0.4, *GATES]
    pytest.importorskip("matplotlib")
    effir_json(*again, "--plot", tmp_path / "widths.png")
    assert gates.stat().st_mtime_ns == before
    assert (tmp_path / "widths.png").read_bytes().startswith(b"\x89PNG")
    other = ["slim", run_folder, "--train", train, "--sparsity", 0.3, *GATES]
    assert "slimmed with other settings" in refused(*other)


def test_slim_without_gates_refits_by_itself_and_is_refitted_again_only_by_force(
    base, train, tmp_path
):
    run = tmp_path / "run"
    effir_json("drop", base, "--out", run, "--mlp-layers", "1")
    slim = ["slim", run, "--train", train, *GATES[1:], "--sparsity", 0.4]
    effir_json(*slim)
    before = (run / "plan.json").read_text()
    effir_json(*slim)
    assert (run / "plan.json").read_text() == before and not (run / "slim").exists()
    assert "pruned neurons already" in refused("reconstruct", run)
    effir_json("export", run, tmp_path / "model")
    effir_json("reconstruct", run, "--multiple-of", 8, "--force")
    stages = json.loads((run / "plan.json").read_text())["made_by"]
    assert [record["stage"] for record in stages] == ["drop", "reconstruct"]


def test_a_trained_base_is_not_slimmed_away(base, train, tmp_path):
    run = tmp_path / "run"
    effir_json("drop", base, "--out", run, "--mlp-layers", "1")
    slim = ["slim", run, "--train", train, "--sparsity", 0.4, *GATES, "--train-base"]
    effir_json(*slim)
    assert json.loads((run / "plan.json").read_text())["base"]["name"] == str(run / "slim" / "base")
    effir_json(*slim)
    assert "choose another run folder" in refused(*slim, "--force")
    effir_json("export", run, tmp_path / "model")


def test_reconstruct_refits_what_slim_chose_and_export_writes_it(run_folder, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    widths = json.loads((copy / "plan.json").read_text())["mlp_widths"]
    effir_json("reconstruct", copy)
    plan = json.loads((copy / "plan.json").read_text())
    assert [record["stage"] for record in plan["made_by"]] == ["drop", "slim", "reconstruct"]
    assert plan["mlp_widths"] == widths
    effir_json("export", copy, tmp_path / "model")
    SentenceTransformer(str(tmp_path / "model")).encode("w1")
    assert "(effir slim)" not in refused("reconstruct", copy)


def test_finetune_takes_a_run_folder_or_a_model_folder(run_folder, train, tmp_path):
    options = ["--train", train, "--negatives", 2, *QUICK]
    made = effir_json("finetune", run_folder, tmp_path / "a", *options)
    assert made["stage"] == "finetune" and made["log"][-1]["teacher"] > 0
    effir_json("export", run_folder, tmp_path / "sliced")
    effir_json("finetune", tmp_path / "sliced", tmp_path / "b", *options)
    texts = ["w1 w2", "w3 w4 w5"]
    first, second = (SentenceTransformer(str(tmp_path / x)).encode(texts) for x in "ab")
    assert (first == second).all()
    stages = json.loads((tmp_path / "b" / "effir.json").read_text())["made_by"]
    assert [record["stage"] for record in stages] == ["drop", "slim", "finetune"]
    result = effir("finetune", tmp_path / "sliced", tmp_path / "b", *options)
    assert result.exit_code == 0 and "written to" in result.stdout
    ignored = effir_json("finetune", run_folder, tmp_path / "c", *options, "--teacher-weight", 0)
    assert "teacher" not in ignored["log"][-1]


def test_distill_follows_the_base_it_was_pruned_from(run_folder, base, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{x} {y}" for x in WORDS[:8] for y in WORDS[9:12]))
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(WORDS[20:30]))
    options = ["--texts", texts, "--queries", queries, *QUICK]
    made = effir_json("distill", run_folder, tmp_path / "out", *options)
    assert made["data"]["teacher"] == str(base)
    assert made["data"]["examples"] == 34
    assert made["log"][-1]["vectors"] > 0


def test_queries_alone_train_a_query_encoder(run_folder, tmp_path):
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(WORDS[20:36]))
    made = effir_json("distill", run_folder, tmp_path / "out", "--queries", queries, *QUICK)
    assert (made["data"]["examples"], made["data"]["source"]) == (16, str(queries))
    told = refused(
        "distill", run_folder, tmp_path / "b", "--queries", queries, "--text-count", 4, *QUICK
    )
    assert "--text-count 4 is of --texts" in told and not (tmp_path / "b").exists()


def test_a_language_model_is_adapted_and_then_fine_tuned_with_attention_both_ways(train, tmp_path):
    tied = save_bare("llama", tmp_path / "tied", tie_word_embeddings=True)
    texts = tmp_path / "texts.jsonl"
    sentences = [f"{x} {y} w3 w4 ." for x in WORDS[:6] for y in WORDS[9:12]]
    pairs = zip(sentences, sentences[1:], strict=False)
    texts.write_text("".join(json.dumps({"text": "\n\n".join(pair)}) + "\n" for pair in pairs))
    adapt = ["adapt", tied, tmp_path / "adapted", "--texts", texts, *QUICK, "--bidirectional"]
    made = effir_json(*adapt)
    assert made["stage"] == "adapt" and made["data"]["examples"] == 17
    assert {"own", "next"} <= set(made["log"][-1])
    options = ["--train", train, "--negatives", 2, *QUICK]
    effir_json("finetune", tmp_path / "adapted", tmp_path / "tuned", *options)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["is_causal"] is False
    stages = json.loads((tmp_path / "tuned" / "effir.json").read_text())["made_by"]
    assert [record["stage"] for record in stages] == ["adapt", "finetune"]
    effir_json("finetune", tied, tmp_path / "both", *options, "--bidirectional")
    assert json.loads((tmp_path / "both" / "config.json").read_text())["is_causal"] is False


def test_what_cannot_be_adapted_or_attend_both_ways_is_one_line(base, run_folder, train, tmp_path):
    out, texts = tmp_path / "out", tmp_path / "texts.txt"
    texts.write_text("w1 w2\nw3\n")
    assert "without its language-modelling head" in refused("adapt", base, out, *QUICK)
    tied = save_bare("llama", tmp_path / "tied", tie_word_embeddings=True)
    line = refused("adapt", tied, out, "--texts", texts, *QUICK)
    assert "none of the 2 texts" in line and "two sentences" in line
    both = ["--train", train, "--negatives", 2, *QUICK, "--bidirectional"]
    assert "leave --bidirectional out" in refused("finetune", run_folder, out, *both)
    encoder = save_bare("bert", tmp_path / "bert")
    assert "see each other already" in refused("finetune", encoder, out, *both)
    assert not out.exists()


def test_mistakes_are_one_line(base, run_folder, train, tmp_path):
    out = tmp_path / "out"
    finetune = ["finetune", base, out, *QUICK, "--negatives", 2, "--train"]

    def lines(*changed):
        path = tmp_path / "changed.jsonl"
        path.write_text("\n".join(json.dumps({**rows()[0], **change}) for change in changed))
        return path

    line = refused(*finetune, lines({}, {"pos": []}))
    assert "changed.jsonl line 2" in line
    line = refused(*finetune, lines({"neg_scores": [1.0]}))
    assert "neg_scores" in line and "line 1" in line
    line = refused(*finetune, lines({"neg": ["w1"], "neg_scores": [0.0]}))
    assert "line 1" in line and "mine" in line
    line = refused(*finetune, lines({}, {}, {"query": "  "}))
    assert "line 3" in line and "query" in line
    line = refused(*finetune, lines({"query": "w1 " * 50}))
    assert "line 1" in line and "tokens" in line
    line = refused(
        *finetune, lines({"pos_scores": None, "neg_scores": None}), "--teacher-weight", 1
    )
    assert "effir score" in line
    assert "nothing is there" in refused(*finetune, tmp_path / "nothing.jsonl")
    assert "do not fill one batch" in refused(*finetune, lines({}))
    assert "trains='some'" in refused(*finetune, train, "--trains", "some")
    assert "needs no --model" in refused(*finetune, train, "--model", base)
    line = refused("slim", run_folder.parent, "--train", train, *GATES)
    assert "importance.json" in line
    assert not out.exists()


def test_a_loss_that_is_not_finite_is_exit_code_three(base, train, tmp_path):
    options = ["--train", train, "--negatives", 2, *QUICK, "--learning-rate", 1e30]
    line = refused("finetune", base, tmp_path / "out", *options, "--trains", "all", code=3)
    assert "lower the learning rate" in line


def test_resuming_with_other_settings_names_them(base, train, tmp_path, monkeypatch):
    from effir_integrations.training import finetune as module

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    options = ["finetune", base, tmp_path / "out", "--train", train, "--negatives", 2, *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr(module, "train", interrupted)
        assert effir(*options).exit_code == 130
    assert "rank 4 then, 8 now" in refused(*options, "--rank", 8)
    effir_json(*options, "--rank", 8, "--force")
