from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from effir_integrations.evaluation.retrieval import METRICS, rank, score_run, search, write_run


def random_vectors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)


@pytest.mark.parametrize("block_size", [1, 7, 50, 1000])
def test_search_finds_what_sorting_all_inner_products_finds(block_size: int):
    documents, queries = random_vectors(50), random_vectors(9, seed=1)
    products = queries @ documents.T
    order = np.argsort(-products, axis=1)[:, :5]

    scores, positions = search(documents, queries, 5, block_size=block_size)

    np.testing.assert_array_equal(positions, order)
    np.testing.assert_allclose(scores, np.take_along_axis(products, order, axis=1), rtol=1e-5)
    assert (scores.dtype, positions.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_equal_documents_are_found_by_ascending_position(block_size: int):
    documents = np.zeros((20, 16), dtype=np.float32)
    documents[[3, 9, 17]] = 1.0
    documents[15] = 2.0

    _, positions = search(documents, documents[15:16], 4, block_size=block_size)

    assert positions.tolist() == [[15, 3, 9, 17]]


@pytest.mark.filterwarnings("error")
def test_search_takes_a_file_of_vectors_that_is_not_writable(tmp_path: Path):
    np.save(tmp_path / "v.npy", random_vectors(9))
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")

    _, positions = search(vectors, vectors[2:4], 1, block_size=4)

    assert positions.tolist() == [[2], [3]]


def test_search_returns_every_document_if_there_are_fewer_than_k():
    _, positions = search(random_vectors(3), random_vectors(2), 100)

    assert np.sort(positions, axis=1).tolist() == [[0, 1, 2]] * 2


def with_value(vectors: np.ndarray, value: float) -> np.ndarray:
    vectors[1, 3] = value
    return vectors


@pytest.mark.parametrize(
    ("documents", "queries", "k", "message"),
    [
        (
            random_vectors(3).astype(np.float64),
            random_vectors(2),
            1,
            "document vectors are float64",
        ),
        (random_vectors(3), random_vectors(2)[0], 1, r"query vectors are float32 of shape \(16,\)"),
        (random_vectors(3)[:, :8], random_vectors(2), 1, "documents have 8 dimensions, queries 16"),
        (random_vectors(3), random_vectors(2), 0, "k=0"),
        (
            with_value(random_vectors(3), np.nan),
            random_vectors(2),
            1,
            "document vector 1 holds NaN",
        ),
        (random_vectors(3), with_value(random_vectors(2), np.inf), 1, "query vector 1 holds NaN"),
    ],
)
def test_search_refuses_vectors_that_do_not_fit(documents, queries, k: int, message: str):
    with pytest.raises(ValueError, match=message):
        search(documents, queries, k)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ir_measures", None)

    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[eval\]"'):
        score_run({"q": {"d": 1}}, {"q": {"d": 1.0}})


def test_a_query_does_not_find_itself_where_that_is_dropped_and_still_gets_k_documents():
    vectors = random_vectors(10)
    ids = [f"i{row}" for row in range(10)]

    run = rank(ids, vectors, ids[:4], vectors[:4], k=5, drop_same_id=True)

    assert [len(found) for found in run.values()] == [5] * 4
    assert all(query not in found for query, found in run.items())


def test_a_query_finds_the_document_of_its_id_unless_that_is_dropped():
    vectors = np.eye(10, 16, dtype=np.float32)
    ids = [f"i{row}" for row in range(10)]

    run = rank(ids, vectors, ids[:4], vectors[:4], k=5)

    assert [next(iter(found)) for found in run.values()] == ids[:4]


def test_a_query_with_an_id_of_its_own_gets_the_k_best_documents_in_order():
    documents, queries = random_vectors(10), random_vectors(1, seed=1)
    best = np.argsort(-(queries @ documents.T)[0])[:3]

    run = rank([f"d{row}" for row in range(10)], documents, ["q"], queries, k=3)

    assert list(run["q"]) == [f"d{row}" for row in best]
    assert all(isinstance(value, float) for value in run["q"].values())


def test_equal_documents_are_ordered_by_descending_id():
    ones = np.ones((4, 16), dtype=np.float32)

    assert list(rank(["b", "d", "a", "c"], ones, ["q"], ones[:1])["q"]) == ["d", "c", "b", "a"]


@pytest.mark.parametrize("ids", [["a", "b"], ["a", "b", "b"]])
def test_rank_refuses_ids_that_do_not_fit_the_vectors(ids: list[str]):
    with pytest.raises(ValueError, match="document ids, 2 of them distinct, for 3 vectors"):
        rank(ids, random_vectors(3), ["q"], random_vectors(1))


def test_scores_are_those_of_the_formulas():
    qrels = {"q": {"a": 2, "b": 1, "z": 1}}
    run = {"q": {"x": 3.0, "a": 2.0, "b": 1.0}}
    gain = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)

    metrics = score_run(qrels, run)

    assert tuple(metrics) == METRICS == ("nDCG@10", "R@100", "RR@10")
    assert metrics == pytest.approx({"nDCG@10": gain / ideal, "R@100": 2 / 3, "RR@10": 1 / 2})
    assert all(type(value) is float for value in metrics.values())


def test_a_judged_query_without_results_counts_zero_and_others_do_not_count():
    qrels = {"q": {"a": 1}, "empty": {"a": 1}, "absent": {"a": 1}, "irrelevant": {"a": 0}}

    metrics = score_run(qrels, {"q": {"a": 1.0}, "empty": {}, "unjudged": {"a": 1.0}})

    assert metrics == {"nDCG@10": 0.25, "R@100": 0.25, "RR@10": 0.25}


@pytest.mark.parametrize("order", [["a", "b", "c"], ["c", "b", "a"]])
@pytest.mark.parametrize(("relevant", "position"), [("a", 3), ("b", 2), ("c", 1)])
def test_all_metrics_break_ties_in_the_same_way(order: list[str], relevant: str, position: int):
    metrics = score_run({"q": {relevant: 1}}, {"q": dict.fromkeys(order, 0.5)})

    assert metrics["RR@10"] == pytest.approx(1 / position)
    assert metrics["nDCG@10"] == pytest.approx(1 / math.log2(position + 1))


def test_results_beyond_the_cut_do_not_count():
    run = {"q": {f"d{row:03}": float(-row) for row in range(120)}}

    assert score_run({"q": {"d010": 1, "d100": 1}}, run) == {
        "nDCG@10": 0.0,
        "R@100": 0.5,
        "RR@10": 0.0,
    }


def test_nothing_judged_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="at least one judged query"):
        score_run({}, {"q": {"a": 1.0}})
    with pytest.raises(ValueError, match="run of query 'q' holds a score that is NaN"):
        score_run({"q": {"a": 1}}, {"q": {"a": math.nan}})


def test_a_written_run_is_strictly_decreasing_and_scores_the_same_when_read(tmp_path: Path):
    import ir_measures

    rng = np.random.default_rng(0)
    run = {
        f"q{query}": {
            f"d{row}": float(np.float32(rng.integers(0, 6) / 7)) for row in rng.permutation(30)
        }
        for query in range(5)
    }
    qrels = {
        query: {f"d{row}": row % 3 for row in rng.permutation(30)[:6].tolist()} for query in run
    }

    write_run(run, tmp_path / "new" / "run.trec", "tiny")

    rows = [line.split(" ") for line in (tmp_path / "new" / "run.trec").read_text().splitlines()]
    for query in run:
        mine = [row for row in rows if row[0] == query]
        assert [row[3] for row in mine] == [str(number) for number in range(1, 31)]
        assert {(row[1], row[5]) for row in mine} == {("Q0", "tiny")}
        values = [np.float32(row[4]) for row in mine]
        assert all(first > second for first, second in pairwise(values))
        assert [run[query][row[2]] for row in mine] == pytest.approx(values, abs=1e-5)
    for name in METRICS:
        measure = ir_measures.parse_measure(name)
        read = ir_measures.read_trec_run(str(tmp_path / "new" / "run.trec"))
        assert ir_measures.calc_aggregate([measure], qrels, read)[measure] == pytest.approx(
            score_run(qrels, run)[name]
        )


@pytest.mark.parametrize(
    ("run", "tag"),
    [
        ({"q 1": {"a": 1.0}}, "tag"),
        ({"q": {"a\tb": 1.0}}, "tag"),
        ({"q": {"": 1.0}}, "tag"),
        ({"q": {"a": 1.0}}, "two words"),
    ],
)
def test_ids_with_whitespace_are_refused_and_the_old_run_stays(tmp_path: Path, run, tag: str):
    path = tmp_path / "run.trec"
    path.write_text("old")

    with pytest.raises(ValueError, match="is empty or holds whitespace"):
        write_run(run, path, tag)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
