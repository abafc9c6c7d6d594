"""MTEB's figures are ours, and its caches never take one model or data set for another."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import WORDS, save_bare

from effir_integrations import evaluate, export, load
from effir_integrations.data.beir import load_beir
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan

mteb = pytest.importorskip("mteb")

from mteb.cache import ResultCache  # noqa: E402
from mteb.types import PromptType  # noqa: E402

from effir_integrations.adapters import mteb as adapter  # noqa: E402
from effir_integrations.adapters.mteb import beir_task, mteb_model  # noqa: E402

PROMPTS = {"query": "w50 w51 ", "document": "w52 "}


def words(generator, count):
    return " ".join(generator.choice(WORDS) for _ in range(count))


def write_beir(folder, seed=0):
    """A corpus with and without titles, of which a document is judged for its own query too."""
    generator = random.Random(seed)
    folder.mkdir()
    (folder / "qrels").mkdir()
    corpus = [
        {"_id": f"d{row}", "title": words(generator, 3) if row % 3 else "", "text": text}
        for row, text in enumerate(words(generator, 6) for _ in range(60))
    ]
    queries = [
        # the id of the first query is that of a document, which BEIR leaves out
        {
            "_id": f"q{row}" if row else "d1",
            "text": f"{corpus[row + 1]['text']} {words(generator, 3)}",
        }
        for row in range(20)
    ]
    judged = {(query["_id"], f"d{generator.randrange(60)}"): 2 for query in queries}
    judged |= {(f"q{row}", f"d{row + 1}"): 1 for row in range(1, 20, 2)}
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    lines = "".join(f"{query}\t{document}\t{x}\n" for (query, document), x in judged.items())
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("mteb")


@pytest.fixture(scope="module")
def data(place):
    return write_beir(place / "mini")


@pytest.fixture(scope="module")
def full(place):
    load(save_bare("qwen3", place / "bare"), prompts=PROMPTS).save(str(place / "full" / "model"))
    return place / "full" / "model"


@pytest.fixture(scope="module")
def pruned(full, place):
    """Another model whose folder has the same name."""
    base = load(full, device="cpu")
    plan = PruningPlan(
        base=BaseIdentity.of(base[0].model, "tiny"),
        drop_mlp=(1,),
        neurons={3: torch.tensor([0, 3, 4, 17, 40])},
    )
    export(base, plan, place / "pruned" / "model")
    return place / "pruned" / "model"


def run(model, task, cache, **options):
    return mteb.evaluate(model, task, cache=ResultCache(cache), show_progress_bar=False, **options)


def ndcg(result):
    return result.task_results[0].scores["test"][0]["ndcg_at_10"]


def test_figures_are_those_of_our_evaluation(full, pruned, data, tmp_path):
    for folder in (full, pruned):
        expected = evaluate(folder, data, device="cpu").metrics["nDCG@10"]
        found = run(mteb_model(folder, precision=None, device="cpu"), beir_task(data), tmp_path)
        assert 0.05 < expected < 0.95
        assert ndcg(found) == pytest.approx(expected, abs=1e-4)


def test_ids_that_coincide_are_treated_as_in_our_evaluation(full, data, tmp_path):
    lines = (data / "qrels" / "test.tsv").read_text()
    folder = shutil.copytree(data, tmp_path / "own")
    (folder / "qrels" / "test.tsv").write_text(f"{lines}d1\td1\t2\n")
    recalls = []
    for choice in (None, "yes", "no"):
        expected = evaluate(full, folder, drop_same_id=choice, device="cpu")
        task = beir_task(folder, drop_same_id=choice)
        assert task.ignore_identical_ids is expected.drops_same_id is (choice == "yes")
        # results of both are kept apart
        found = run(mteb_model(full, precision=None, device="cpu"), task, tmp_path / "results")
        assert ndcg(found) == pytest.approx(expected.metrics["nDCG@10"], abs=1e-4)
        recalls.append(found.task_results[0].scores["test"][0]["recall_at_100"])
    assert recalls == [1.0, pytest.approx(0.975, abs=1e-4), 1.0]


def test_what_is_judged_and_absent_counts_as_in_our_evaluation(full, data, tmp_path):
    lines = (data / "qrels" / "test.tsv").read_text()
    folder = shutil.copytree(data, tmp_path / "lacking")
    more = "q3\tgone\t2\nabsent\td2\t1\nnothing\td9\t0\n"
    (folder / "qrels" / "test.tsv").write_text(lines + more)
    with (folder / "queries.jsonl").open("a") as stream:
        stream.write('{"_id": "nothing", "text": "w1 w2"}\n')
    expected = evaluate(full, folder, device="cpu").metrics["nDCG@10"]
    assert expected < evaluate(full, data, device="cpu").metrics["nDCG@10"]
    found = run(mteb_model(full, precision=None, device="cpu"), beir_task(folder), tmp_path)
    assert ndcg(found) == pytest.approx(expected, abs=1e-4)


def test_the_command_line_of_mteb_takes_a_folder(pruned, data, tmp_path, monkeypatch):
    expected = ndcg(run(mteb_model(pruned, device="cpu"), beir_task(data), tmp_path / "python"))
    stock, task = mteb.get_model, beir_task(data)
    monkeypatch.setattr(mteb, "get_tasks", lambda **options: [task])  # its own lie on the hub
    line = [
        "run",
        "-m",
        pruned,
        "-t",
        "any",
        "--output-folder",
        tmp_path / "cli",
    ]
    monkeypatch.setattr("sys.argv", ["mteb", *map(str, line)])
    adapter.main()
    assert mteb.get_model is stock
    (path,) = (tmp_path / "cli").rglob(f"{task.metadata.name}.json")
    kept = json.loads(path.read_text())["scores"]["test"][0]["ndcg_at_10"]
    assert kept == expected
    monkeypatch.setattr("sys.argv", ["mteb", "run", "-m", "no/model", "-t", "any"])
    with pytest.raises(Exception, match="no/model"):
        adapter.main()


def test_full_and_pruned_models_have_entries_of_their_own(full, pruned, data, tmp_path):
    revisions = set()
    for folder in (full, pruned, full):
        result = run(mteb_model(folder), beir_task(data), tmp_path)
        assert result.model_name == "local/model"
        revisions.add(result.model_revision)
    found = sorted(tmp_path.glob("results/local__model/*/mini-*.json"))
    assert {path.parent.name for path in found} == revisions
    assert len(found) == 2


def test_kept_results_are_not_computed_again(full, data, tmp_path, monkeypatch):
    run(mteb_model(full), beir_task(data), tmp_path)
    again = mteb_model(full)
    monkeypatch.setattr(again, "encode", lambda *a, **k: pytest.fail("encoded again"))
    assert len(run(again, beir_task(data), tmp_path).task_results) == 1


def test_vectors_that_mteb_keeps_serve_one_model_alone(full, data, tmp_path, monkeypatch):
    from mteb.models import CachedEmbeddingWrapper

    model = mteb_model(full, precision=None, device="cpu")
    kept = tmp_path / model.mteb_model_meta.revision
    first = ndcg(run(CachedEmbeddingWrapper(model, kept), beir_task(data), tmp_path / "a"))
    again = mteb_model(full, precision=None, device="cpu")
    monkeypatch.setattr(again, "encode", lambda *a, **k: pytest.fail("encoded again"))
    assert ndcg(run(CachedEmbeddingWrapper(again, kept), beir_task(data), tmp_path / "b")) == first


def test_changed_data_of_the_same_name_are_another_task(full, data, tmp_path):
    changed = write_beir(tmp_path / "mini", seed=1)
    first, second = (run(mteb_model(full), beir_task(x), tmp_path / "c") for x in (data, changed))
    names = [result.task_results[0].task_name for result in (first, second)]
    assert names[0] != names[1]
    assert all(name.startswith("mini-") for name in names)
    assert ndcg(first) != ndcg(second)


def test_other_settings_are_another_revision(full):
    plain = mteb_model(full, precision=None).mteb_model_meta
    assert mteb_model(full, precision=None).mteb_model_meta == plain
    for options in ({"max_length": 8}, {"truncate_dim": 8}, {"precision": "bf16"}):
        other = mteb_model(full, **{"precision": None, **options}).mteb_model_meta
        assert other.revision != plain.revision, options
    assert mteb_model(load(full)).mteb_model_meta.n_parameters == plain.n_parameters


def test_the_record_states_what_the_model_is(full, pruned):
    model = load(pruned, device="cpu")
    meta = mteb_model(pruned, name="me/smaller", max_length=16, truncate_dim=8).mteb_model_meta
    assert meta.name == "me/smaller"
    assert meta.n_parameters == sum(x.numel() for x in model.parameters())
    assert meta.n_parameters < mteb_model(full).mteb_model_meta.n_parameters
    assert meta.n_embedding_parameters == 64 * 32
    assert (meta.embed_dim, meta.max_tokens) == (8, 16)
    assert meta.memory_usage_mb == pytest.approx(4 * meta.n_parameters / 2**20, rel=0.6)
    assert meta.similarity_fn_name.value == model.similarity_fn_name
    assert meta.framework == ["Sentence Transformers", "PyTorch"]
    assert meta.open_weights and meta.use_instructions
    assert json.dumps(meta.to_dict(), default=str)


def loader(*texts):
    return [{"text": list(texts)}]


def encoded(model, texts, prompt_type, task):
    return model.encode(
        loader(*texts),
        task_metadata=task.metadata,
        hf_split="test",
        hf_subset="default",
        prompt_type=prompt_type,
        show_progress_bar=False,
    )


def test_prompts_are_those_of_the_role_or_of_the_task(full, data):
    task, texts = beir_task(data), ["w1 w2", "w3"]
    own = load(full, device="cpu")
    for prompts in (PROMPTS, {"query": "w50 w51 ", "passage": "w52 "}):
        own.prompts = prompts
        model = mteb_model(own)
        query = encoded(model, texts, PromptType.query, task)
        document = encoded(model, texts, PromptType.document, task)
        np.testing.assert_allclose(query, own.encode(texts, prompt="w50 w51 "), atol=1e-6)
        np.testing.assert_allclose(document, own.encode(texts, prompt="w52 "), atol=1e-6)
        neither = encoded(model, texts, None, task)
        np.testing.assert_allclose(neither, own.encode(texts, prompt=""), atol=1e-6)
    own.prompts = {"query": "w50 w51 ", "Retrieval-query": "w53 ", "Retrieval": "w54 "}
    query = encoded(mteb_model(own), texts, PromptType.query, task)
    np.testing.assert_allclose(query, own.encode(texts, prompt="w53 "), atol=1e-6)
    neither = encoded(mteb_model(own), texts, None, task)
    np.testing.assert_allclose(neither, own.encode(texts, prompt="w54 "), atol=1e-6)


def test_texts_are_title_and_text_joined_as_in_beir(data):
    task = beir_task(data)
    task.load_data()
    expected = load_beir(data).documents
    corpus = task.dataset["default"]["test"]["corpus"]
    assert dict(zip(corpus["id"], corpus["text"], strict=True)) == expected
    assert expected["d1"].count(" ") == 8


def test_a_task_can_be_loaded_again(data):
    task = beir_task(data)
    for _ in range(2):
        task.load_data()
        assert len(task.dataset["default"]["test"]["queries"]) == 20
        task.unload_data()


def test_mteb_takes_an_encoder_as_it_is(full, data, tmp_path):
    expected = evaluate(full, data, device="cpu").metrics["nDCG@10"]
    result = mteb.evaluate(
        load(full, device="cpu"), beir_task(data), cache=None, show_progress_bar=False
    )
    assert ndcg(result) == pytest.approx(expected, abs=1e-4)


def test_other_kinds_of_tasks_run(full):
    from mteb.mocks.mock_tasks import MockSTSTask

    result = mteb.evaluate(mteb_model(full), MockSTSTask(), cache=None, show_progress_bar=False)
    assert np.isfinite(result.task_results[0].get_score())


def test_bad_input_is_refused(full, data, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds neither config.json nor modules.json"):
        mteb_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no model folder"):
        mteb_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="expected a BEIR folder"):
        beir_task(tmp_path)
    with pytest.raises(FileNotFoundError, match="no judgements for split 'dev'; there are: test"):
        beir_task(data, "dev")
    with pytest.raises(ValueError, match="name='minilm' must be of the form OWNER/NAME"):
        mteb_model(full, name="minilm")
    with pytest.raises(ValueError, match="precision='int8' asks for quantised vectors"):
        mteb.evaluate(
            mteb_model(full), beir_task(data), cache=None, encode_kwargs={"precision": "int8"}
        )


ELSEWHERE = """
import sys
from pathlib import Path
import socket
def refuse(*args, **kwargs):
    raise AssertionError("reached for the network")
socket.socket.connect = refuse
import mteb
from mteb.cache import ResultCache
from effir_integrations.adapters.mteb import beir_task, mteb_model
model, data, cache = sys.argv[1:4]
mteb.evaluate(mteb_model(model), beir_task(data), cache=ResultCache(cache))
print([str(path) for path in Path.home().rglob("*") if path.is_file()])
for name in [name for name in sys.modules if name.partition(".")[0] == "mteb"]:
    del sys.modules[name]
del sys.modules["effir_integrations.adapters.mteb"]
sys.modules["mteb"] = None
try:
    import effir_integrations.adapters.mteb
except ImportError as error:
    print(error)
"""


def test_nothing_is_fetched_or_written_at_home_and_a_missing_mteb_is_named(full, data, tmp_path):
    (tmp_path / "home").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, full, data, tmp_path / "cache"],
        env={**os.environ, "HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    written, error = result.stdout.splitlines()[-2:]
    assert written == "[]"
    assert error.endswith('install it with: pip install "effir-integrations[mteb]"')
    assert len(list((tmp_path / "cache").rglob("mini-*.json"))) == 1
