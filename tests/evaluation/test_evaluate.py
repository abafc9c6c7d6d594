from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from effir_integrations.data.beir import load_beir
from effir_integrations.evaluation.evaluate import Evaluation, evaluate

MakeBeir = Callable[..., Path]


def test_a_folder_is_measured_with_its_size_and_settings(model_folder: Path, make_beir: MakeBeir):
    evaluation = evaluate(model_folder, make_beir(), max_length=8, batch_size=4, device="cpu")

    files = [path for path in model_folder.rglob("*") if path.is_file()]
    with safe_open(model_folder / "model.safetensors", "pt") as weights:
        parameters = sum(weights.get_tensor(name).numel() for name in weights.keys())
    assert evaluation.metrics == {"nDCG@10": 1.0, "R@100": 1.0, "RR@10": 1.0}
    assert evaluation.bytes == sum(path.stat().st_size for path in files)
    assert evaluation.parameters == parameters
    assert (evaluation.documents, evaluation.queries) == (12, 5)
    assert (evaluation.max_length, evaluation.batch_size) == (8, None)
    assert (evaluation.dtype, evaluation.device) == ("float32", "cpu")
    assert min(evaluation.documents_per_second, evaluation.queries_per_second) > 0
    assert 0 < evaluation.query_latency_ms < 10_000


def test_the_json_has_the_agreed_keys_and_survives_a_round_trip(
    model_folder: Path, make_beir: MakeBeir
):
    evaluation = evaluate(str(model_folder), make_beir(split="dev"), split="dev")

    content = evaluation.to_json()

    assert {
        "model",
        "data",
        "split",
        "metrics",
        "parameters",
        "bytes",
        "documents_per_second",
        "queries_per_second",
        "query_latency_ms",
        "max_length",
        "dtype",
    } <= content.keys()
    assert content["metrics"].keys() == {"nDCG@10", "R@100", "RR@10"}
    assert (content["model"], content["data"], content["split"]) == (
        str(model_folder),
        "mini",
        "dev",
    )
    assert Evaluation(**json.loads(json.dumps(content))) == evaluation


def test_the_run_is_written_with_every_query(
    model_folder: Path, make_beir: MakeBeir, tmp_path: Path
):
    evaluate(model_folder, make_beir(), run_path=tmp_path / "runs" / "tiny.trec")

    rows = [line.split() for line in (tmp_path / "runs" / "tiny.trec").read_text().splitlines()]
    assert len(rows) == 5 * 12
    assert [(row[0], row[2]) for row in rows if row[3] == "1"] == [
        (f"q{row}", f"d{row}") for row in range(5)
    ]


def test_a_loaded_model_is_measured_as_it_is_and_keeps_its_length(
    model: SentenceTransformer, make_beir: MakeBeir
):
    data = load_beir(make_beir())
    tensors = model.state_dict().values()

    evaluation = evaluate(model, data, max_length=2)

    assert evaluation.max_length == 2
    assert model.max_seq_length == 16
    assert evaluation.bytes == sum(tensor.numel() * 4 for tensor in tensors)


def test_the_length_changes_what_the_model_sees(model: SentenceTransformer, make_beir: MakeBeir):
    corpus = [{"_id": f"d{row}", "text": f"w1 w{row}"} for row in range(10, 20)]
    queries = [{"_id": f"q{row}", "text": f"w1 w{row}"} for row in range(10, 20)]
    data = load_beir(
        make_beir(
            corpus=corpus, queries=queries, qrels=[(f"q{r}", f"d{r}", "1") for r in range(10, 20)]
        )
    )

    whole, cut = evaluate(model, data), evaluate(model, data, max_length=1)

    assert whole.metrics["RR@10"] == 1.0
    # All texts are the same now: ten documents tie for each query.
    assert cut.metrics["RR@10"] == pytest.approx(sum(1 / n for n in range(1, 11)) / 10)


def numbered(make_beir: MakeBeir, qrels: list[tuple[str, str, str]]) -> Path:
    """Forty documents and queries with the same ids on both sides."""
    rows = [{"_id": f"{row}", "text": f"w{row} w{row + 10}"} for row in range(40)]
    return make_beir(corpus=rows, queries=rows, qrels=qrels)


def test_documents_numbered_as_their_queries_are_found(model_folder: Path, make_beir: MakeBeir):
    data = numbered(make_beir, [(f"{row}", f"{row}", "1") for row in range(40)])

    found = evaluate(model_folder, data)
    assert found.metrics["nDCG@10"] == 1.0
    assert not found.drops_same_id
    dropped = evaluate(model_folder, data, drop_same_id="yes")
    assert dropped.metrics["nDCG@10"] == 0.0
    assert dropped.drops_same_id
    # loaded data have a choice of their own, which the argument overrules
    loaded = load_beir(data, "test", "yes")
    assert evaluate(model_folder, loaded).metrics["nDCG@10"] == 0.0
    assert evaluate(model_folder, loaded, drop_same_id="no").metrics["nDCG@10"] == 1.0


def test_a_query_from_the_corpus_does_not_find_itself(model_folder: Path, make_beir: MakeBeir):
    data = numbered(make_beir, [("0", "10", "1"), ("1", "11", "1")])

    assert evaluate(model_folder, data).drops_same_id
    kept = evaluate(model_folder, data, drop_same_id="no")
    assert kept.metrics["RR@10"] < evaluate(model_folder, data).metrics["RR@10"]


def test_a_judgement_of_what_is_not_there_counts_as_not_found(
    model_folder: Path, make_beir: MakeBeir
):
    whole = evaluate(model_folder, make_beir())
    lines = [("q0", "d0", "1"), ("q0", "gone", "1"), ("q1", "d1", "1"), ("absent", "d2", "1")]

    found = evaluate(model_folder, make_beir("lacking", qrels=lines))

    assert whole.metrics["R@100"] == 1.0
    # half of the first, all of the second, nothing of the third
    assert found.metrics["R@100"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert found.queries == 2


def test_half_precision_is_said_in_the_result(model_folder: Path, make_beir: MakeBeir):
    assert evaluate(model_folder, make_beir(), dtype="bfloat16").dtype == "bfloat16"


def test_lone_surrogates_in_the_data_are_encoded(model: SentenceTransformer, make_beir: MakeBeir):
    folder = make_beir(
        corpus=['{"_id": "d0", "text": "w0 \\ud800"}', '{"_id": "d1", "text": "w1"}'],
        queries=['{"_id": "q0", "text": "w0 \\udfff"}'],
        qrels=[("q0", "d0", "1")],
    )

    assert evaluate(model, folder).metrics["RR@10"] == 1.0


def test_a_distance_is_refused(model: SentenceTransformer, make_beir: MakeBeir):
    model.similarity_fn_name = "euclidean"

    with pytest.raises(ValueError, match="similarity is 'euclidean'"):
        evaluate(model, make_beir())


@pytest.fixture
def unloadable(model_folder: Path, tmp_path: Path) -> Path:
    """A model whose config can be read, and whose weights are missing."""
    folder = tmp_path / "unloadable"
    shutil.copytree(model_folder, folder)
    save_file({}, next(folder.rglob("model.safetensors")))
    return folder


def test_bad_data_are_found_before_the_model_is_loaded(make_beir: MakeBeir, unloadable: Path):
    with pytest.raises(ValueError, match=r"corpus\.jsonl line 1: not JSON"):
        evaluate(unloadable, make_beir(corpus=["{"]))


def test_ids_that_no_run_can_hold_are_found_before_the_model_is_loaded(
    make_beir: MakeBeir, unloadable: Path, tmp_path: Path
):
    folder = make_beir(
        corpus=[{"_id": "two words", "text": "w1"}], qrels=[("q0", "two words", "1")]
    )

    with pytest.raises(ValueError, match="id 'two words' is empty or holds whitespace"):
        evaluate(unloadable, folder, run_path=tmp_path / "run.trec")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"drop_same_id": "maybe"}, "drop_same_id='maybe' is none of auto, yes, no"),
        ({"max_length": 0}, "max_length=0"),
        ({"dtype": "float8"}, "dtype 'float8' is not known; choose from auto, .*float32"),
    ],
)
def test_bad_settings_are_found_before_the_data_are_read(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        evaluate("nobody/no-model", "/nowhere", **options)


def test_settings_of_a_named_model_are_refused_for_a_loaded_one(model: SentenceTransformer):
    with pytest.raises(ValueError, match=r"dtype='float32' .* call model\.to"):
        evaluate(model, "/nowhere", dtype="float32")
    with pytest.raises(ValueError, match="device='cpu' are for a model given by name"):
        evaluate(model, "/nowhere", device="cpu")


def test_more_tokens_than_positions_are_refused(model: SentenceTransformer, make_beir: MakeBeir):
    with pytest.raises(ValueError, match="max_length=65, but the model has positions for 64"):
        evaluate(model, make_beir(), max_length=65)


def test_a_path_without_a_model_is_found_before_the_data_are_read(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="absent is no model folder"):
        evaluate(tmp_path / "absent", "/nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds neither config\.json nor"):
        evaluate(tmp_path, "/nowhere")


def test_a_missing_package_is_named_before_anything_is_read(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ir_measures", None)

    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[eval\]"'):
        evaluate(model_folder, "/nowhere")


def test_a_copy_of_a_folder_gives_the_same_metrics(
    model_folder: Path, make_beir: MakeBeir, tmp_path: Path
):
    copy = shutil.copytree(model_folder, tmp_path / "copy")
    qrels = [("q5", f"d{row}", "1") for row in range(3)]

    first, second = (evaluate(path, make_beir(qrels=qrels)) for path in (model_folder, copy))

    assert first.metrics == second.metrics
    assert first.metrics["nDCG@10"] < 1


@pytest.mark.real_data
@pytest.mark.slow
def test_minilm_reaches_its_published_score_on_scifact(minilm: Path, scifact: Path):
    evaluation = evaluate(minilm, scifact, max_length=256, dtype="float32", device="cpu")

    assert evaluation.metrics["nDCG@10"] == pytest.approx(0.6451, abs=0.001)
    assert evaluation.metrics["R@100"] == pytest.approx(0.9250, abs=0.001)
    assert evaluation.parameters == 22_713_216


def test_vectors_are_cut_to_their_leading_numbers(
    model: SentenceTransformer, make_beir: MakeBeir, tmp_path: Path
):
    data = load_beir(make_beir(), "test")
    cut = evaluate(model, data, truncate_dim=4, run_path=tmp_path / "run")
    assert (cut.truncate_dim, evaluate(model, data).truncate_dim) == (4, None)
    first = (tmp_path / "run").read_text().splitlines()[0].split()
    vectors = model.encode(
        [data.queries[first[0]], data.documents[first[2]]],
        truncate_dim=4,
        normalize_embeddings=True,
    )
    assert abs(vectors[0] @ vectors[1] - float(first[4])) < 1e-5


@pytest.mark.parametrize(("dimensions", "said"), [(33, "above the 32"), (0, "at least 1")])
def test_dimensions_that_are_not_there_are_refused(
    dimensions: int, said: str, model: SentenceTransformer, make_beir: MakeBeir
):
    with pytest.raises(ValueError, match=f"truncate_dim={dimensions} .*{said}"):
        evaluate(model, make_beir(), truncate_dim=dimensions)
