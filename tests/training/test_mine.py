from __future__ import annotations

import json
import logging
import random
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import save_bare

from effir_integrations.data.training_examples import load_training
from effir_integrations.encoder.loading import load
from effir_integrations.training import mine as mine_module
from effir_integrations.training import search
from effir_integrations.training.mine import Mined

pytest.importorskip("datasets")

mine = partial(mine_module.mine, fill=False)
"""What was found, with nothing drawn at random behind it."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load(save_bare("bert", tmp_path_factory.mktemp("base") / "tiny-bert"), device="cpu")


def texts(count, words=6, seed=0):
    generator = random.Random(seed)
    return [" ".join(f"w{generator.randrange(60)}" for _ in range(words)) for _ in range(count)]


def write_beir(folder: Path, splits: dict[str, list[str]], documents=40) -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts(documents))
    ]
    corpus.append({"_id": "empty", "title": "", "text": ""})
    queries = [{"_id": f"q{i}", "text": f"w{i} w{i + 1}"} for i in range(6)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for split, qrels in splits.items():
        lines = "\n".join(["query-id\tcorpus-id\tscore", *qrels])
        (folder / "qrels" / f"{split}.tsv").write_text(lines)
    return folder


@pytest.fixture
def beir(tmp_path):
    train = ["q0\td0\t1", "q0\td1\t2", "q0\td2\t0", "q1\td3\t1", "q2\td4\t1"]
    return write_beir(tmp_path / "mini", {"train": train, "test": ["q5\td5\t1"]})


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ranking(encoder, query, passages, **prompts):
    """Rank by brute force, best first."""
    documents = encoder.encode(passages, convert_to_tensor=True, normalize_embeddings=True)
    scores = documents @ encoder.encode(
        query, convert_to_tensor=True, normalize_embeddings=True, **prompts
    )
    return [passages[index] for index in torch.argsort(scores, descending=True)]


def test_negatives_are_the_best_ranked_passages_that_are_no_positives(encoder, beir, tmp_path):
    out = tmp_path / "mined.jsonl"
    mined = mine(encoder, beir, out, negatives=5, relative_margin=None)

    corpus = texts(40)
    lines = lines_of(out)
    assert mined == Mined(path=out, queries=3, negatives=15, short=0)
    assert [line["query"] for line in lines] == ["w0 w1", "w1 w2", "w2 w3"]
    assert lines[0]["pos"] == corpus[0:2]
    for line in lines:
        ranked = [
            text for text in ranking(encoder, line["query"], corpus) if text not in line["pos"]
        ]
        assert line["neg"] == ranked[:5]


def test_the_file_can_be_trained_on(encoder, beir, tmp_path):
    mined = mine(encoder, beir, tmp_path / "mined.jsonl", negatives=5, relative_margin=None)

    assert len(load_training(mined.path, negatives=5)) == 3


def test_only_the_named_split_is_read_and_never_test(encoder, beir, tmp_path):
    out = tmp_path / "mined.jsonl"
    (beir / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq4\td9\t1")
    mine(encoder, beir, out, negatives=2, relative_margin=None, split="dev")
    assert [line["query"] for line in lines_of(out)] == ["w4 w5"]
    out.unlink()
    with pytest.raises(ValueError, match="the split 'test' is for evaluation.*--split train"):
        mine(encoder, beir, out, split="test")
    with pytest.raises(FileNotFoundError, match="no judgements for split 'nope'; there are: dev"):
        mine(encoder, beir, out, split="nope")
    assert not out.exists()


def test_test_judgements_have_no_influence(encoder, beir, tmp_path):
    with_test = mine(encoder, beir, tmp_path / "a.jsonl", negatives=5, relative_margin=None)
    (beir / "qrels" / "test.tsv").unlink()
    without = mine(encoder, beir, tmp_path / "b.jsonl", negatives=5, relative_margin=None)

    assert with_test.path.read_bytes() == without.path.read_bytes()


def test_positives_and_negatives_of_a_training_file_are_its_corpus(encoder, tmp_path):
    pool = texts(12, seed=1)
    rows = [
        {"query": "w0 w1", "pos": pool[:1], "neg": pool[2:7]},
        {"query": "w5", "pos": pool[7:9], "neg": pool[9:]},
    ]
    source = tmp_path / "source.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows))
    passages = [text for text in pool if text != pool[1]]
    mined = mine(encoder, source, tmp_path / "out.jsonl", negatives=4, relative_margin=None)

    for line, row in zip(lines_of(mined.path), rows, strict=True):
        ranked = [
            text for text in ranking(encoder, row["query"], passages) if text not in row["pos"]
        ]
        assert line == {"query": row["query"], "pos": row["pos"], "neg": ranked[:4]}


def test_the_same_query_on_two_lines_becomes_one_with_all_positives(encoder, tmp_path, caplog):
    pool = texts(8)
    rows = [{"query": "w1", "pos": [pool[index]]} for index in (0, 1)]
    rows.append({"query": "w2", "pos": pool[2:]})

    mined = mine(encoder, rows, tmp_path / "out.jsonl", negatives=6, relative_margin=None)

    first, second = lines_of(mined.path)
    assert first["pos"] == pool[:2]
    assert sorted(first["neg"]) == sorted(pool[2:])
    assert sorted(second["neg"]) == sorted(pool[:2])
    assert mined == Mined(path=mined.path, queries=2, negatives=8, short=1)
    assert "1 queries repeat an earlier one: merged" in caplog.text


def test_a_copy_of_a_positive_under_another_id_is_no_negative(encoder, tmp_path):
    folder = write_beir(tmp_path / "b", {"train": ["q0\td0\t1"]}, documents=5)
    with (folder / "corpus.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"_id": "copy", "title": "", "text": texts(5)[0]}))

    mined = mine(encoder, folder, tmp_path / "out.jsonl", negatives=9, relative_margin=None)

    (line,) = lines_of(mined.path)
    assert sorted(line["neg"]) == sorted(texts(5)[1:])


def test_a_query_with_too_few_negatives_keeps_what_was_found_and_is_counted(
    encoder, tmp_path, caplog
):
    pool = texts(4)
    rows = [{"query": "w1", "pos": pool[:3], "neg": pool[3:]}, {"query": "w2", "pos": pool}]
    with caplog.at_level(logging.WARNING):
        mined = mine(encoder, rows, tmp_path / "out.jsonl", negatives=2, relative_margin=None)

    assert [line["neg"] for line in lines_of(mined.path)] == [pool[3:], []]
    assert (mined.queries, mined.negatives, mined.short) == (2, 1, 2)
    assert "2 of 2 queries have fewer than 2 negatives" in caplog.text


@pytest.mark.parametrize("margin", ["relative_margin", "absolute_margin"])
def test_a_margin_keeps_likely_positives_out(encoder, tmp_path, margin):
    pool = texts(30)
    query = "w1 w2 w3"
    ranked = ranking(encoder, query, pool)
    rows = [{"query": query, "pos": [ranked[10]], "neg": pool}]
    options = {"relative_margin": None, "absolute_margin": None, margin: 0.0}

    mined = mine(encoder, rows, tmp_path / "out.jsonl", negatives=5, **options)

    (line,) = lines_of(mined.path)
    assert line["neg"] == ranked[11:16]


def test_a_query_whose_positive_ranks_below_range_max_gets_no_negative(encoder, tmp_path):
    pool = texts(30)
    query = "w1 w2 w3"
    ranked = ranking(encoder, query, pool)
    row = {"query": query, "pos": [ranked[20]], "neg": pool}
    shared = {"negatives": 2, "relative_margin": 0.0}

    near = mine(encoder, [row], tmp_path / "a.jsonl", **shared)
    with pytest.raises(ValueError, match="no negative was found for any of 1 queries.*range-max"):
        mine(encoder, [row], tmp_path / "b.jsonl", **shared, range_max=10)

    assert lines_of(near.path)[0]["neg"] == ranked[21:23]


def test_range_min_skips_the_best(encoder, beir, tmp_path):
    shared = {"relative_margin": None, "range_max": 20}
    all_of_them = mine(encoder, beir, tmp_path / "a.jsonl", negatives=6, **shared)
    later = mine(encoder, beir, tmp_path / "b.jsonl", negatives=4, range_min=2, **shared)

    for before, after in zip(lines_of(all_of_them.path), lines_of(later.path), strict=True):
        assert after["neg"] == before["neg"][2:]


def test_small_blocks_of_queries_find_the_same(encoder, beir, tmp_path, monkeypatch):
    whole = mine(encoder, beir, tmp_path / "a.jsonl", negatives=5, relative_margin=None)
    monkeypatch.setattr(search, "_SIMILARITIES", 1)
    monkeypatch.setattr(search, "_TEXTS", 7)
    blocks = mine(encoder, beir, tmp_path / "b.jsonl", negatives=5, relative_margin=None)

    assert whole.path.read_text() == blocks.path.read_text()


def test_faiss_finds_the_same(encoder, beir, tmp_path):
    pytest.importorskip("faiss")
    shared = {"negatives": 5, "relative_margin": None}
    exact = mine(encoder, beir, tmp_path / "a.jsonl", **shared)
    faiss = mine(encoder, beir, tmp_path / "b.jsonl", **shared, use_faiss=True)

    assert lines_of(exact.path) == lines_of(faiss.path)


def test_the_prompt_for_queries_counts_and_that_of_a_row_goes_before_it(
    encoder, tmp_path, monkeypatch
):
    monkeypatch.setitem(encoder.prompts, "query", "w50 w51 w52 ")
    monkeypatch.setitem(encoder.prompts, "other", "w40 w41 w42 ")
    pool = texts(30)
    plain = [{"query": "w1", "pos": pool[:1], "neg": pool[1:]}]
    own = [*plain, {"query": "w1", "pos": pool[:1], "prompt": "w30 w31 "}]
    count = [0]

    def negatives(rows, **options):
        count[0] += 1
        out = tmp_path / f"{count[0]}.jsonl"
        mine(encoder, rows, out, negatives=29, relative_margin=None, **options)
        return [line["neg"] for line in lines_of(out)]

    def expected(prompt):
        ranked = ranking(encoder, "w1", pool, prompt=prompt)
        return [text for text in ranked if text != pool[0]]

    default, other = expected("w50 w51 w52 "), expected("w40 w41 w42 ")
    assert default != other
    assert negatives(plain) == [default]
    assert negatives(plain, query_prompt_name="other") == [other]
    assert negatives(plain, query_prompt="w40 w41 w42 ") == [other]
    assert negatives(own) == [default, expected("w30 w31 ")]
    assert negatives(own, query_prompt_name="other") == [other, expected("w30 w31 ")]
    assert [line.get("prompt") for line in lines_of(tmp_path / "4.jsonl")] == [None, "w30 w31 "]


@pytest.mark.parametrize("show_progress", [False, True])
def test_a_quick_run_prints_nothing(encoder, beir, tmp_path, capfd, show_progress):
    options = {"relative_margin": None, "show_progress": show_progress}
    mine(encoder, beir, tmp_path / "out.jsonl", negatives=5, **options)

    assert capfd.readouterr() == ("", "")


def test_an_existing_file_is_kept_unless_forced(encoder, beir, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("kept")
    with pytest.raises(FileExistsError, match="exists; choose another file, or replace it"):
        mine(encoder, beir, out)
    assert out.read_text() == "kept"
    mine(encoder, beir, out, negatives=5, relative_margin=None, force=True)
    assert len(lines_of(out)) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_or_another_suffix_is_no_place_to_write(encoder, beir, tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(FileExistsError, match="is a folder"):
        mine(encoder, beir, tmp_path / "folder.jsonl", force=True)
    with pytest.raises(ValueError, match="written to .jsonl files"):
        mine(encoder, beir, tmp_path / "out.json")


def test_a_positive_among_the_negatives_stops_everything(encoder, beir, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"

    def wrong(encoder, pool, *rest, **options):
        return {key[1]: list(positives) for key, positives in pool.positives.items()}

    monkeypatch.setattr(mine_module, "search_pool", wrong)
    with pytest.raises(RuntimeError, match="a positive of the query 'w0 w1' came out as a neg"):
        mine(encoder, beir, out)
    assert not out.exists()


def test_no_negative_at_all_is_refused(encoder, tmp_path):
    rows = [{"query": "w1", "pos": ["w2", "w3"]}]
    with pytest.raises(ValueError, match="no negative was found for any of 1 queries; lower"):
        mine(encoder, rows, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: holds no query with a positive"),
        ([{"query": "q", "pos": []}], "rows row 1: has no positive passage"),
        ([{"query": "q", "pos": [""]}], r"rows row 1: pos\[0\] is '', which is blank"),
    ],
)
def test_bad_rows_are_refused(encoder, tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        mine(encoder, rows, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": 0}, "negatives=0 is not allowed; give an integer from 1 up"),
        ({"range_max": 0}, "range_max=0 is not allowed"),
        ({"range_min": -1}, "range_min=-1 is not allowed"),
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
        ({"range_max": 8, "range_min": 2}, "range_max=8 leaves 6 candidates after range_min=2"),
        ({"relative_margin": -0.1}, "relative_margin=-0.1 is not allowed; give a number from 0"),
        ({"absolute_margin": float("nan")}, "absolute_margin=nan is not allowed"),
        ({"query_prompt_name": "nope"}, "prompt name 'nope' is not known to the model"),
        ({"document_prompt_name": "nope"}, "prompt name 'nope' is not known to the model"),
    ],
)
def test_a_bad_option_is_refused(encoder, beir, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        mine(encoder, beir, tmp_path / "out.jsonl", **options)


@pytest.mark.parametrize(("package", "extra"), [("datasets", "train"), ("faiss", "eval")])
def test_a_missing_package_is_named_with_its_extra(
    encoder, beir, tmp_path, monkeypatch, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'pip install "effir-integrations\[{extra}\]"'):
        mine(encoder, beir, tmp_path / "out.jsonl", use_faiss=True)


@pytest.mark.slow
@pytest.mark.real_data
def test_scifact_train_gives_seven_negatives_for_almost_every_query(minilm, scifact, tmp_path):
    mined = mine(load(minilm), scifact, tmp_path / "mined.jsonl")

    assert mined.queries > 800
    assert mined.short < mined.queries / 10
    for line in lines_of(mined.path):
        assert not set(line["neg"]) & set(line["pos"])


def test_what_is_missing_is_drawn_at_random_but_never_a_positive(encoder, tmp_path):
    pool = texts(9)
    rows = [
        {"query": "w1", "pos": pool[:3], "neg": pool[3:]},
        {"query": "w2", "pos": pool[3:5], "neg": []},
        {"query": "w3", "pos": pool, "neg": []},
    ]
    ranks = {"range_min": 5, "range_max": 9, "relative_margin": None}
    options = {"negatives": 4, "fill": True, **ranks}
    mined = mine(encoder, rows, tmp_path / "out.jsonl", **options)
    again = mine(encoder, rows, tmp_path / "again.jsonl", **options)
    for line, row in zip(lines_of(mined.path), rows, strict=True):
        assert len(line["neg"]) == len(set(line["neg"])) == min(4, 9 - len(row["pos"]))
        assert not set(line["neg"]) & set(row["pos"])
    assert (mined.negatives, mined.short) == (8, 1)
    assert mined.filled > 0
    assert mined.path.read_bytes() == again.path.read_bytes()
