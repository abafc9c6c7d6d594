from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny import save_bare

from effir_integrations import load
from effir_integrations.adapters.pyserini import java
from effir_integrations.adapters.pyserini.export import export_to_pyserini
from effir_integrations.adapters.pyserini.launch import MODULES, launch, main
from effir_integrations.adapters.pyserini.topics import topics_with_string_ids

pytest.importorskip("pyserini")
jnius_config = pytest.importorskip("jnius_config")

ENCODE = "input --corpus corpus.jsonl --fields title text output --embeddings out --to-faiss "
ENCODE += "encoder --encoder model --fields title text"
SEARCH = "--index index --encoder model --topics topics.json --output run.txt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("launch")
    load(save_bare("qwen3", base / "bare")).save(str(base / "model"))
    load(save_bare("qwen3", base / "bare2", seed=1)).save(str(base / "other"))
    load(save_bare("bert", base / "bare3", hidden_size=16)).save(str(base / "small"))
    (base / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "w1"}\n')
    export_to_pyserini(base / "model", {"a": "w1"}, base / "index", queries={"q": "w1"})
    (base / "topics.json").write_text('{"q": {"title": "w1"}}')
    export_to_pyserini(base / "small", {"a": "w1"}, base / "narrow")
    (base / "narrow" / "effir.json").unlink()
    export_to_pyserini(base / "other", {"a": "w1"}, base / "others", queries={"q": "w1"})
    (base / "topics.csv").write_text("q,w1\n")
    (base / "bad.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\tx\n")
    (base / "empty").mkdir()
    (base / "mixed").mkdir()
    for name in ("corpus", "queries"):
        (base / "mixed" / f"{name}.jsonl").touch()
    for number, name in enumerate(("index", "narrow")):
        (base / f"shard{number}").mkdir()
        for file in ("index", "docid"):
            (base / f"shard{number}" / file).write_bytes((base / name / file).read_bytes())
    return base


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


REFUSED = {
    "a model folder without a model": (
        "pyserini.encode", ENCODE.replace("model", "empty"), "neither config.json nor modules"),
    "a model folder that is not there": (
        "pyserini.search.faiss", SEARCH.replace("model", "./nothing"), "no model folder"),
    "a corpus that is not there": (
        "pyserini.encode", ENCODE.replace("corpus.jsonl", "missing.jsonl"), "missing.jsonl"),
    "a missing part": ("pyserini.encode", "input --corpus c", "'output' is missing"),
    "a missing option": ("pyserini.encode", "input output encoder", "--corpus is missing"),
    "pooling": ("pyserini.encode", ENCODE + " --pooling mean", "model folder decides"),
    "abbreviated pooling": ("pyserini.encode", ENCODE + " --pool last", "--pooling has no effect"),
    "normalisation": ("pyserini.search.faiss", SEARCH + " --l2-norm", "--l2-norm has no effect"),
    "a document prefix": ("pyserini.encode", ENCODE + " --prefix x", "--prefix has no effect"),
    "images": ("pyserini.encode", ENCODE + " --multimodal", "--multimodal has no effect"),
    "input without text": (
        "pyserini.encode", ENCODE.replace("title text", "title contents"), "field 'text' among"),
    "another field": (
        "pyserini.encode", ENCODE.replace("--fields title text", "--fields text url"), "url"),
    "a field that is not read": (
        "pyserini.encode", ENCODE.replace("--fields title text ", "", 1), "reads text only"),
    "another dimension for the model": (
        "pyserini.encode", ENCODE + " --dim 768", "--dimension 768: the model gives .* 32"),
    "a length of zero": ("pyserini.encode", ENCODE + " --max-length 0", "at least 1"),
    "an index that is not there": (
        "pyserini.search.faiss", SEARCH.replace("--index index", "--index a/b"), "a/b: nothing"),
    "an index that is none": (
        "pyserini.search.faiss", SEARCH.replace("--index index", "--index empty"), "no file"),
    "an index of another dimension": (
        "pyserini.search.faiss", SEARCH.replace("--index index", "--index narrow"),
        "vectors of 16 dimensions, model gives 32"),
    "an index of another model": (
        "pyserini.search.faiss", SEARCH.replace("--index index", "--index others"),
        "--allow-other-model"),
    "encoded queries of another model": (
        "pyserini.search.faiss",
        SEARCH.replace("--encoder model", "--encoded-queries others/queries"), "another model"),
    "neither encoder nor encoded queries": (
        "pyserini.search.faiss", SEARCH.replace("--encoder model", ""), "give --encoder MODEL"),
    "another tokenizer": (
        "pyserini.search.faiss", SEARCH + " --tokenizer bert", "leave --tokenizer out"),
    "topics that need a download": (
        "pyserini.search.faiss", SEARCH.replace("topics.json", "beir-v1.0.0-scifact-test"),
        r"HF_HUB_OFFLINE=1 forbids; give a file, such as a \.json one"),
    "topics that are not there": (
        "pyserini.search.lucene", "--index empty --output r --topics x.tsv", "nothing is there"),
    "topics in a format that nobody reads": (
        "pyserini.search.faiss", SEARCH.replace("topics.json", "topics.csv"),
        r"topics.csv: neither Pyserini .* write \.json"),
    "judgements of BEIR with a bad line": (
        "pyserini.eval.trec_eval", "-c bad.tsv topics.json", "score 'x' is not an integer"),
    "a search without output": (
        "pyserini.search.lucene", "--index empty --topics topics.json", "--output is missing"),
    "a Lucene index that is not there": (
        "pyserini.search.hybrid",
        f"dense {SEARCH.split('--topics')[0]} sparse --index ./no fusion run --topics topics.json "
        "--output run.txt", "sparse --index ./no"),
    "an index of another model in a hybrid": (
        "pyserini.search.hybrid",
        "dense --index others --encoder model sparse --index empty fusion run --topics topics.json "
        "--output run.txt", "another model"),
    "vectors that are not there": (
        "pyserini.index.faiss", "--input ./no --output hnsw", "nothing is there"),
    "vectors that are none": (
        "pyserini.index.faiss", "--input empty --output hnsw", "neither a Faiss index nor vectors"),
    "another dimension for an index": (
        "pyserini.index.faiss", "--input index --output hnsw --dim 768", "--dim 768: index holds"),
    "shards of two models": (
        "pyserini.index.merge_faiss_indexes", "--prefix shard --shard-num 2", "16, 32"),
    "a shard that is missing": (
        "pyserini.index.merge_faiss_indexes", "--prefix shard --shard-num 3", "shard2 holds no"),
    "queries among the documents": (
        "pyserini.index.lucene", "--collection BeirFlatCollection --input mixed --index x",
        "holds corpus.jsonl alone"),
    "a file in place of a folder": (
        "pyserini.index.lucene", "--input corpus.jsonl --index x", "give a folder"),
    "a run that is not there": ("pyserini.fusion", "--runs a b --output c", "no such run"),
    "a run that is none": (
        "pyserini.fusion", "--runs topics.json --output c", "columns; a TREC run has"),
    "judgements that need a download": (
        "pyserini.eval.trec_eval", "-c beir-v1.0.0-scifact-test run.txt", "give a file of lines"),
    "a run to score that is not there": (
        "pyserini.eval.trec_eval", "-c topics.json none.txt", "run none.txt: there is no such"),
    "a module that is not Pyserini's": ("pyserini.serve", "", "cannot be launched; choose from"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_before_a_jvm_is_started(case):
    module, line, message = REFUSED[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        launch(module, line.split())
    assert "\n" not in str(error.value)
    assert not jnius_config.vm_running and not Path("out").exists()


def test_no_java_is_said_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr(java, "candidates", lambda environment: iter(()))
    with pytest.raises(ImportError, match=r"Java 21 or newer; found none"):
        launch("pyserini.encode", ENCODE.replace("model", "empty").split())


def test_no_pyserini_is_said_with_the_extra(monkeypatch):
    from effir_integrations.pyserini import register

    monkeypatch.setitem(sys.modules, "pyserini", None)
    for call in (register, lambda: launch("pyserini.encode", [])):
        with pytest.raises(ImportError, match=r"effir-integrations\[pyserini\]"):
            call()


def test_the_command_line_says_it_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["encode", *ENCODE.split(), "--pooling", "mean"])
    with pytest.raises(SystemExit) as stop:
        main("pyserini.encode")
    assert stop.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert printed[-1].startswith("effir: --pooling has no effect on encoder class effir")


def test_every_module_has_a_launcher():
    import effir_integrations.pyserini as front

    place = Path(front.__file__).parent
    for module in MODULES:
        file = place.joinpath(*module.split(".")[1:]).with_suffix(".py")
        assert f'main("{module}")' in file.read_text()


def copied(path: Path, text: str, tmp_path: Path) -> dict[str, str]:
    path.write_text(text, encoding="utf-8")
    copy = topics_with_string_ids(path, tmp_path)
    return {query: topic["title"] for query, topic in json.loads(copy.read_text()).items()}


def test_topics_keep_their_ids(tmp_path):
    expected = {"007": "w1 w2", "a": "w3"}
    for name, text in {
        "a.tsv": "007\tw1 w2\na\tw3\n",
        "b.jsonl": '{"_id": "007", "text": "w1 w2"}\n{"_id": "a", "text": "w3"}\n',
        "c.jsonl": '{"qid": "007", "title": "w1 w2"}\n\n{"qid": "a", "title": "w3"}\n',
        "d.json": '{"007": {"title": "w1 w2"}, "a": {"title": "w3"}}',
    }.items():
        (tmp_path / "copies").mkdir(exist_ok=True)
        assert copied(tmp_path / name, text, tmp_path / "copies") == expected
    other = tmp_path / "topics.trec"
    assert topics_with_string_ids(other, tmp_path) == other


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", "holds no query"),
        ("a.json", '{"1": {"text": "x"}}', "query '1' has no title"),
        ("a.json", "[1]", "no JSON object"),
        ("a.tsv", "\n", "holds no query"),
        ("a.tsv", "1 no tab\n", "line 1: .* a tab between"),
        ("a.tsv", "1\tx\n1\ty\n", "'1' is there twice"),
        ("a.jsonl", "", "holds no query"),
        ("a.jsonl", '{"_id": "1"}\n', "a text .*its keys are _id"),
    ],
)
def test_topics_without_queries_are_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        copied(tmp_path / name, text, tmp_path)
