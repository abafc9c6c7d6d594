from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from effir_integrations.data.beir import RetrievalData, load_beir

QRELS = [(f"q{row}", f"d{row}", "1") for row in range(5)]

MakeBeir = Callable[..., Path]

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: qrels/train.jsonl
  - split: test
    path: qrels/test.jsonl
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus.jsonl
- config_name: queries
  data_files:
  - split: queries
    path: queries.jsonl
---
"""


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def mteb_folder(make_beir: MakeBeir, datasets_cache: None) -> Path:
    """The default BEIR data as one dataset of three configs, judgements as floats."""
    folder = make_beir("mteb-mini")
    rows = (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
    judgements = [
        dict(zip(("query-id", "corpus-id"), row.split("\t"), strict=False)) for row in rows
    ]
    for split, chosen in (("train", judgements[:2]), ("test", judgements)):
        lines = [json.dumps({**row, "score": 1.0}) + "\n" for row in chosen]
        (folder / "qrels" / f"{split}.jsonl").write_text("".join(lines))
    (folder / "qrels" / "test.tsv").unlink()
    (folder / "README.md").write_text(README)
    return folder


def test_a_folder_gives_joined_texts_judged_queries_and_integer_judgements(make_beir: MakeBeir):
    data = load_beir(make_beir())

    assert (data.name, data.split) == ("mini", "test")
    assert data.documents["d3"] == "w3 w23 w43"
    assert len(data.documents) == 12
    assert data.queries == {f"q{row}": f"w{row} w{row + 20} w{row + 40}" for row in range(5)}
    assert data.qrels == {f"q{row}": {f"d{row}": 1} for row in range(5)}


def test_another_split_has_its_own_queries(make_beir: MakeBeir):
    folder = make_beir(split="dev", qrels=[("q5", "d0", "2"), ("q5", "d1", "0")])

    data = load_beir(str(folder), "dev")

    assert data.queries.keys() == {"q5"}
    assert data.qrels == {"q5": {"d0": 2, "d1": 0}}


@pytest.mark.parametrize("title", [{}, {"title": ""}, {"title": None}, {"title": "  "}])
def test_a_document_without_title_is_its_text(make_beir: MakeBeir, title: dict):
    corpus = [{"_id": "d", **title, "text": " w1 "}]

    data = load_beir(make_beir(corpus=corpus, qrels=[("q0", "d", "1")]))

    assert data.documents == {"d": "w1"}


def test_a_document_with_an_empty_text_is_kept(make_beir: MakeBeir):
    corpus = [{"_id": "d", "title": "w1", "text": ""}, {"_id": "e", "title": "", "text": ""}]

    data = load_beir(make_beir(corpus=corpus, qrels=[("q0", "d", "1")]))

    assert data.documents == {"d": "w1", "e": ""}


def test_lone_surrogates_are_left_to_the_encoder(make_beir: MakeBeir):
    corpus = ['{"_id": "d", "text": "w1 \\ud800"}']

    assert load_beir(make_beir(corpus=corpus, qrels=[("q0", "d", "1")])).documents == {
        "d": "w1 \ud800"
    }


GOOD = {"_id": "d0", "title": "", "text": "w0"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"corpus": [GOOD, "{not json"]}, r"corpus\.jsonl line 2: not JSON"),
        ({"corpus": [GOOD, "[1]"]}, r"corpus\.jsonl line 2: a JSON list"),
        ({"corpus": [GOOD, {"text": "w1"}]}, r"corpus\.jsonl line 2: lacks the key '_id'"),
        ({"corpus": [GOOD, {"_id": "", "text": "w1"}]}, r"corpus\.jsonl line 2: no '_id'"),
        ({"corpus": [GOOD, {"_id": True, "text": "w1"}]}, r"corpus\.jsonl line 2: no '_id'"),
        ({"corpus": [GOOD, {"_id": "d1"}]}, r"corpus\.jsonl line 2: lacks the key 'text'"),
        ({"corpus": [GOOD, {"_id": "d1", "text": None}]}, r"corpus\.jsonl line 2: .* has no text"),
        (
            {"corpus": [{"_id": "d1", "title": 3, "text": "w1"}]},
            r"corpus\.jsonl line 1: the title of document 'd1' is not a string",
        ),
        ({"corpus": [GOOD, GOOD]}, r"corpus\.jsonl line 2: document id 'd0' was used before"),
        (
            {"queries": [{"_id": "q0", "text": "w0"}, {"_id": "q0", "text": "w1"}]},
            r"queries\.jsonl line 2: query id 'q0' was used before",
        ),
        ({"queries": ["{}"]}, r"queries\.jsonl line 1: lacks the key '_id'"),
        ({"queries": [{"_id": "q0"}]}, r"queries\.jsonl line 1: lacks the key 'text'"),
        ({"qrels": [("q9", "d0", "1")]}, r"none of the 1 judged queries, such as 'q9', is among"),
        ({"qrels": [("q0", "d99", "1")]}, r"no document that is judged, such as 'd99', is in"),
        ({"qrels": [("q0", "d0", "1"), ("q0", "d1")]}, r"test\.tsv line 3: 2 columns in"),
        ({"qrels": ["q0 0 d0 1"]}, r"test\.tsv line 2: 1 columns in 'q0 0 d0 1'"),
        ({"qrels": [("q0", "d0", "yes")]}, r"test\.tsv line 2: score 'yes' is not an integer"),
        ({"qrels": [("q0", "d0", "0.5")]}, r"test\.tsv line 2: score '0\.5' is not an integer"),
        (
            {"qrels": [("q0", "d0", "1"), ("q0", "d0", "2")]},
            r"test\.tsv line 3: .*were judged 1 before, 2 here",
        ),
        ({"corpus": []}, r"mini: the corpus is empty"),
        ({"qrels": []}, r"mini: split 'test' has no judged query"),
    ],
)
def test_a_bad_line_is_named(make_beir: MakeBeir, parts: dict, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        load_beir(make_beir(**parts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ["query\tdoc\trel", "q0 Q0 d0 1", ""])
def test_qrels_that_begin_with_anything_else_are_refused(make_beir: MakeBeir, header: str):
    folder = make_beir()
    (folder / "qrels" / "test.tsv").write_text(header + "\n")

    with pytest.raises(ValueError, match=r"test\.tsv line 1: the header is .*expected the columns"):
        load_beir(folder)


def test_a_missing_split_lists_those_that_are_there(make_beir: MakeBeir):
    folder = make_beir()
    shutil.copy(folder / "qrels" / "test.tsv", folder / "qrels" / "dev.tsv")

    with pytest.raises(FileNotFoundError, match="split 'train'; there are: dev, test"):
        load_beir(folder, "train")


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels"])
def test_an_incomplete_folder_says_what_is_missing(make_beir: MakeBeir, missing: str):
    folder = make_beir()
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    with pytest.raises(FileNotFoundError, match=f"expected a BEIR folder .*; {missing} is not"):
        load_beir(folder)


def test_a_file_is_no_folder(make_beir: MakeBeir):
    with pytest.raises(FileNotFoundError, match="is a file; give the BEIR folder"):
        load_beir(make_beir() / "corpus.jsonl")


@pytest.mark.parametrize("source", ["/nowhere/scifact", "./mini", "mini", "a/b/c", ""])
def test_a_path_that_is_no_hub_name_is_refused_without_asking_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(FileNotFoundError, match="nor OWNER/NAME|expected a BEIR folder"):
        load_beir(source)


@pytest.mark.usefixtures("datasets_cache")
def test_a_hub_dataset_that_is_not_cached_is_one_clear_line_offline():
    with pytest.raises(FileNotFoundError, match="nobody/nothing: no BEIR folder.*") as caught:
        load_beir("nobody/nothing")

    assert "unset HF_HUB_OFFLINE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_of_three_configs_equals_the_folder(mteb_folder: Path, make_beir: MakeBeir):
    expected = load_beir(make_beir())

    data = load_beir(mteb_folder)

    assert data.name == "mteb-mini"
    assert data.documents == expected.documents
    assert data.queries == expected.queries
    assert data.qrels == expected.qrels
    assert load_beir(mteb_folder, "train").queries.keys() == {"q0", "q1"}


def test_a_dataset_of_parquet_files_is_read(mteb_folder: Path):
    import datasets

    expected = load_beir(mteb_folder)
    for path in (*mteb_folder.glob("*.jsonl"), *mteb_folder.glob("qrels/*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        datasets.Dataset.from_list(rows).to_parquet(path.with_suffix(".parquet"))
        path.unlink()
    (mteb_folder / "README.md").write_text(README.replace(".jsonl", ".parquet"))

    assert load_beir(mteb_folder) == expected


def test_judgements_may_be_a_dataset_of_their_own_with_integer_ids(
    tmp_path: Path, datasets_cache: None
):
    folder, qrels = tmp_path / "two", tmp_path / "two-qrels"
    for path in (folder, qrels):
        path.mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": "31", "title": "w1", "text": "w2"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "7", "text": "w1"}\n')
    start, rest = README.index("- config_name: default"), README.index("- config_name: corpus")
    (folder / "README.md").write_text(README[:start] + README[rest:])
    (qrels / "test.tsv").write_text("query-id\tcorpus-id\tscore\n7\t31\t1\n")

    data = load_beir(folder)

    assert data.documents == {"31": "w1 w2"}
    assert data.qrels == {"7": {"31": 1}}


def test_a_dataset_without_the_split_lists_its_splits(mteb_folder: Path):
    with pytest.raises(FileNotFoundError, match="split 'dev'; there are: test, train"):
        load_beir(mteb_folder, "dev")


def test_a_bad_row_of_a_dataset_is_named(mteb_folder: Path):
    with (mteb_folder / "corpus.jsonl").open("a") as stream:
        stream.write('{"_id": "dx", "title": "w", "text": null}\n')

    with pytest.raises(ValueError, match="corpus row 13: document 'dx' has no text"):
        load_beir(mteb_folder)


def test_a_fractional_judgement_of_a_dataset_is_named(mteb_folder: Path):
    line = json.dumps({"query-id": "q0", "corpus-id": "d0", "score": 0.5})
    (mteb_folder / "qrels" / "test.jsonl").write_text(line + "\n")

    with pytest.raises(ValueError, match=r"test row 1: score 0\.5 is not an integer"):
        load_beir(mteb_folder)


def test_a_dataset_without_judgements_says_where_they_were_looked_for(mteb_folder: Path):
    start, rest = README.index("- config_name: default"), README.index("- config_name: corpus")
    (mteb_folder / "README.md").write_text(README[:start] + README[rest:])

    with pytest.raises(FileNotFoundError, match=r"no judgements found: .*-qrels: ") as caught:
        load_beir(mteb_folder)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[eval\]"'):
        load_beir("nobody/nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": {}}, "no documents"),
        ({"qrels": {}}, "no judged query"),
        ({"queries": {}}, "none of the 1 judged queries, such as 'q', is among the queries"),
        ({"qrels": {"q": {"x": 1}}}, "no document that is judged, such as 'x', is in the corpus"),
        ({"drop_same_id": "maybe"}, "drop_same_id='maybe' is none of auto, yes, no"),
        ({"queries": {"q": "w", "p": "w"}}, "query 'p' has no judgement"),
    ],
)
def test_data_that_do_not_fit_together_are_refused(change: dict, message: str):
    parts = {"documents": {"d": "w"}, "queries": {"q": "w"}, "qrels": {"q": {"d": 1}}}

    with pytest.raises(ValueError, match=message):
        RetrievalData(name="x", split="test", **{**parts, **change})


@pytest.mark.real_data
def test_scifact_has_the_published_size(scifact: Path):
    data = load_beir(scifact)

    assert (len(data.documents), len(data.queries)) == (5183, 300)
    assert sum(map(len, data.qrels.values())) == 339


@pytest.mark.parametrize("first", ["1", "-1", "2.0"])
def test_qrels_may_come_without_their_header(make_beir: MakeBeir, first: str):
    folder = make_beir(qrels=[("q0", "d3", first), *QRELS])
    path = folder / "qrels" / "test.tsv"
    with_header = load_beir(folder).qrels
    path.write_text(path.read_text().split("\n", 1)[1])

    assert load_beir(folder).qrels == with_header
    assert with_header["q0"]["d3"] == float(first)


def test_judgements_of_a_file_may_be_whole_numbers_with_a_point_as_those_of_a_dataset(
    make_beir: MakeBeir,
):
    data = load_beir(make_beir(qrels=[("q0", "d0", "1.0"), ("q0", "d1", "-2.0")]))

    assert data.qrels == {"q0": {"d0": 1, "d1": -2}}


ABSENT = [*QRELS, ("q0", "gone", "1"), ("q1", "gone", "0"), ("left", "d0", "1")]


def test_judgements_of_what_is_not_there_are_kept_and_counted_in_a_warning(
    make_beir: MakeBeir, caplog: pytest.LogCaptureFixture
):
    data = load_beir(make_beir(qrels=ABSENT))

    assert data.qrels["q0"] == {"d0": 1, "gone": 1}
    assert data.qrels["left"] == {"d0": 1}
    assert "left" not in data.queries
    assert data.relevant("q0") == ["d0"]
    documents, queries = (record.getMessage() for record in caplog.records)
    assert "2 judgements name documents that are not in the corpus" in documents
    assert "1 of 6 judged queries are not among the queries" in queries


NUMBERED = {
    "corpus": [{"_id": f"{row}", "text": f"w{row} w{row + 20}"} for row in range(1, 13)],
    "queries": [{"_id": f"{row}", "text": f"w{row} w{row + 20}"} for row in range(1, 7)],
}
OWN = [(f"{row}", f"{row}", "1") for row in range(1, 7)]
OTHER = [(f"{row}", f"{row + 1}", "1") for row in range(1, 7)]


@pytest.mark.parametrize(
    ("qrels", "choice", "drops", "said"),
    [
        (OWN, "auto", False, "6 of these are judged relevant to it, so they are kept"),
        (OTHER, "auto", True, "none of these is judged relevant to it, so they are left out"),
        ([*OTHER, ("2", "2", "1")], "auto", False, "1 of these are judged relevant"),
        ([*OTHER, ("2", "2", "0")], "auto", True, "none of these is judged relevant"),
        (OWN, "yes", True, None),
        (OTHER, "no", False, None),
    ],
)
def test_the_document_of_the_querys_own_id_is_left_out_where_that_is_the_sense_of_the_data(
    make_beir: MakeBeir, caplog: pytest.LogCaptureFixture, qrels, choice, drops, said
):
    data = load_beir(make_beir(**NUMBERED, qrels=qrels), "test", choice)

    assert data.drops_same_id is data.drops_same_id is drops
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (said is not None)
    for line in lines:
        assert "6 of 6 queries have the id of a document" in line and said in line


def test_nothing_is_said_where_no_ids_coincide(make_beir, caplog: pytest.LogCaptureFixture):
    assert not load_beir(make_beir()).drops_same_id
    assert not caplog.records
