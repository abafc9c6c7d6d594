"""How far a pruned model agrees with the full one is told without labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny import WORDS
from verbs import effir, effir_json, refused

from effir_integrations import check
from effir_integrations.encoder.search_vectors import mean_cosine, search_vectors
from effir_integrations.evaluation.agreement import (
    agreement,
    overlaps,
    rank_biased_overlaps,
    reciprocal_ranks,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Texts with titles that say how they begin."""
    draw = np.random.default_rng(0)
    rows = []
    for number in range(120):
        words = draw.choice(WORDS, 12)
        rows.append({"_id": str(number), "title": " ".join(words[:4]), "text": " ".join(words)})
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_model_agrees_with_itself(model_folder, corpus):
    found = check(model_folder, model_folder, corpus, device="cpu")
    for each in (found.alone, found.kept):
        assert (each.overlap, each.overlap_worst, each.rank_biased) == (1, 1, pytest.approx(1))
        assert each.overlap_interval == (1, 1)
        assert each.known_item == found.known_item_full
    assert found.query_cosine == pytest.approx(1, abs=1e-5)
    assert (found.documents, found.query_source) == (120, f"{found.queries} titles")


def test_what_is_told_is_what_a_search_by_hand_finds(model_folder, other, corpus, tmp_path):
    texts = [json.loads(line) for line in corpus.read_text().splitlines()]
    documents = [f"{row['title']} {row['text']}" for row in texts]
    queries = [" ".join(WORDS[number : number + 3]) for number in range(30)]
    (tmp_path / "queries.txt").write_text("\n".join(queries))
    found = check(model_folder, other, corpus, queries=tmp_path / "queries.txt", device="cpu")

    full, small = (SentenceTransformer(str(x), device="cpu") for x in (model_folder, other))

    def best(queries_by, documents_by):
        asked = search_vectors(queries_by, queries, kind="query")
        stored = search_vectors(documents_by, documents, kind="document")
        return np.argsort(-asked @ stored.T, axis=1, kind="stable")[:, :10]

    reference = best(full, full)
    for each, by_hand in ((found.alone, best(small, small)), (found.kept, best(small, full))):
        shared = list(each.overlap_by_query)
        assert shared == [
            len(set(a) & set(b)) / 10 for a, b in zip(reference, by_hand, strict=True)
        ]
        assert each.overlap == pytest.approx(np.mean(shared))
        assert each.overlap_worst == pytest.approx(np.mean(sorted(shared)[:3]))
        assert each.overlap_interval[0] < each.overlap < each.overlap_interval[1] < 1
        assert each.known_item is None
    assert found.known_item_full is None
    assert found.changed[0].overlap == min(
        len(set(a) & set(b)) / 10 for a, b in zip(reference, best(small, small), strict=True)
    )
    place = queries.index(found.changed[0].query)
    assert found.changed[0].full == documents[reference[place, 0]]


def test_models_of_other_dimensions_are_compared_by_what_they_find(model_folder, corpus):
    short = SentenceTransformer(str(model_folder), device="cpu", truncate_dim=16)
    full = SentenceTransformer(str(model_folder), device="cpu")
    found = check(full, short, corpus)
    assert (found.kept, found.query_cosine, found.document_cosine) == (None, None, None)
    assert 0 < found.alone.overlap < 1


def test_the_command_shows_what_python_returns(model_folder, other, corpus, tmp_path):
    given = ("check", model_folder, other, "--texts", corpus, "--query-count", 25)
    found = effir_json(*given)
    assert found["queries"] == 25
    expected = check(model_folder, other, corpus, query_count=25)
    assert found == json.loads(json.dumps(expected.to_json()))
    table = effir(*given, "--plot", tmp_path / "overlap.png").stdout
    assert (tmp_path / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert "pruned, on the full index" in table.replace("\n", " ") or "on the full" in table
    assert f"{expected.alone.overlap:.3f}" in table and "changes most" in table


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["w1 w2 w3"] * 99, "99 documents are too few to judge by; give at least 100"),
        (["w1 w2 w3 w4"] * 100, "0 queries are too few.*--queries, or a corpus with titles"),
    ],
)
def test_too_little_to_judge_by_is_refused_with_what_is_needed(texts, message, model_folder):
    with pytest.raises(ValueError, match=message):
        check(model_folder, model_folder, texts)


def test_a_model_that_is_not_there_is_refused_before_the_corpus_is_read(model_folder, tmp_path):
    message = refused("check", model_folder, tmp_path / "nowhere", "--texts", tmp_path / "x.jsonl")
    assert "nowhere" in message


def test_overlap_counts_places_in_any_order():
    full, found = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 2, 9], [6, 5, 4]])
    assert overlaps(found, full).tolist() == [pytest.approx(2 / 3), 1]


def test_rank_biased_overlap_is_the_weighted_mean_of_the_overlaps_at_each_depth():
    full, found = np.array([[1, 2, 3]]), np.array([[1, 3, 2]])
    expected = (1 + 0.9 * 0.5 + 0.81 * 1) / (1 + 0.9 + 0.81)
    assert rank_biased_overlaps(found, full)[0] == pytest.approx(expected)


def test_reciprocal_ranks_are_0_where_nothing_is_found():
    found = np.array([[7, 8], [8, 7], [1, 2]])
    assert reciprocal_ranks(found, [7, 7, 7]).tolist() == [1, 0.5, 0]


def test_the_worst_tenth_is_of_the_queries_that_change_most():
    full = np.tile(np.arange(10), (20, 1))
    found = full.copy()
    found[0] += 100
    found[1, 5:] += 100
    assert agreement(found, full, None).overlap_worst == pytest.approx(0.25)


def test_the_cosine_is_of_pairs_and_not_of_lengths():
    first, second = (np.array(x, dtype=np.float32) for x in ([[2, 0], [0, 3]], [[1, 0], [1, 0]]))
    assert mean_cosine(first, second) == pytest.approx(0.5)
