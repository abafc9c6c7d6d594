from __future__ import annotations

import gzip
import json
import logging
import sys
from pathlib import Path

import pytest

from effir_integrations.data import calibration
from effir_integrations.data.calibration import Calibration, load_calibration


@pytest.fixture
def write(tmp_path):
    def write_bytes(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write_bytes


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# The shipped sample


def test_the_sample_is_the_default_and_holds_256_different_texts():
    sample = load_calibration()
    assert sample.source == "sample"
    assert sample == load_calibration("sample", limit=None)
    assert len(sample) == len(set(sample.texts)) == 256
    assert sum(len(text.split()) for text in sample.texts) > 15_000


def test_the_sample_can_be_cut_and_the_cut_keeps_its_order():
    everything = load_calibration().texts
    some = load_calibration(limit=20, seed=3).texts
    positions = [everything.index(text) for text in some]
    assert len(some) == 20
    assert positions == sorted(positions)
    assert some != everything[:20]


# Files, folders and sequences


def test_a_jsonl_file_joins_title_and_text(write):
    path = write(
        "texts.jsonl",
        lines(
            {"title": "A title", "text": "a text"},
            {"text": "bare"},
            {"title": None, "text": "null title"},
            {"title": "", "text": " spaced "},
            {"text": "  "},
        ),
    )
    loaded = load_calibration(path)
    assert loaded.texts == ("A title a text", "bare", "null title", "spaced")
    assert loaded.source == str(path)


@pytest.mark.parametrize("name", ["texts.txt", "texts.md", "TEXTS.TXT"])
def test_a_text_file_has_one_text_a_line(write, name):
    assert load_calibration(write(name, "one\n\n  two \n")).texts == ("one", "two")


def test_a_beir_folder_gives_its_documents(write):
    corpus = lines({"_id": "d1", "title": "T", "text": "x"}, {"_id": "d2", "text": "y"})
    path = write("corpus.jsonl", corpus)
    write("queries.jsonl", lines({"_id": "q1", "text": "not this"}))
    assert load_calibration(str(path.parent)).texts == ("T x", "y")


def test_a_path_may_start_at_the_home_folder(write, monkeypatch):
    path = write("texts.txt", "one\n")
    monkeypatch.setenv("HOME", str(path.parent))
    assert load_calibration("~/texts.txt").texts == ("one",)


def test_a_sequence_is_taken_as_it_is():
    loaded = load_calibration(["one", "", "two"])
    assert loaded.texts == ("one", "two")
    assert loaded.source == "texts"


def test_lone_surrogates_are_replaced_and_pairs_are_joined(write):
    path = write("texts.jsonl", '{"text": "a\\ud800b"}\n{"text": "\\ud83d\\ude00"}\n')
    assert load_calibration(path).texts == ("a\ufffdb", "\U0001f600")
    assert load_calibration(["a\ud800b"]).texts == ("a\ufffdb",)


# The limit


def test_a_sample_is_set_by_its_seed_keeps_order_and_covers_the_source():
    texts = [f"text {index:04d}" for index in range(1000)]
    first = load_calibration(texts, limit=50, seed=7)
    assert first == load_calibration(texts, limit=50, seed=7)
    assert first != load_calibration(texts, limit=50, seed=8)
    assert list(first.texts) == sorted(set(first.texts))
    drawn = {
        text for seed in range(200) for text in load_calibration(texts, limit=50, seed=seed).texts
    }
    assert len(drawn) > 990


def test_every_text_is_drawn_about_equally_often():
    texts = [str(index) for index in range(10)]
    counts = dict.fromkeys(texts, 0)
    for seed in range(2000):
        for text in load_calibration(texts, limit=3, seed=seed).texts:
            counts[text] += 1
    # 600 expected; the standard deviation is about 20.
    assert all(500 < count < 700 for count in counts.values())


def test_no_limit_takes_all_and_a_source_within_the_limit_is_whole():
    texts = [str(index) for index in range(300)]
    assert load_calibration(texts, limit=None).texts == tuple(texts)
    assert load_calibration(texts, limit=300).texts == tuple(texts)
    assert len(load_calibration(texts)) == 256


def test_memory_does_not_grow_with_the_corpus(write):
    import tracemalloc

    path = write("texts.txt", ("word " * 200 + "\n") * 20_000)
    load_calibration(path, limit=8)
    tracemalloc.start()
    load_calibration(path, limit=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 15_000_000
    assert peak < 1_000_000


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "8"])
def test_a_bad_limit_is_refused(limit):
    with pytest.raises(ValueError, match=r"limit=.* is not allowed; give an integer from 1 up"):
        load_calibration(limit=limit)


# The dataclass


def test_the_hash_tells_where_a_text_ends_and_ignores_the_source():
    assert (
        Calibration(texts=("ab", "c"), source="x").sha256
        != Calibration(texts=("a", "bc"), source="x").sha256
    )
    assert (
        Calibration(texts=("ab", "c"), source="x").sha256
        == Calibration(texts=("ab", "c"), source="y").sha256
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((), "has no text"),
        (("a", " "), "text 1 from 'x' is ' '; each must be a string"),
        (("a", None), "text 1 from 'x' is None"),
        (("\udc00",), "holds a lone surrogate; pass the texts through load_calibration"),
    ],
)
def test_a_calibration_refuses_texts_that_cannot_be_encoded(texts, message):
    with pytest.raises(ValueError, match=message):
        Calibration(texts=texts, source="x")


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "empty.jsonl: holds no text"),
        ("empty.txt", "", "empty.txt: holds no text"),
        ("blank.jsonl", lines({"text": " "}, {"text": ""}), "holds no text, or blank ones only"),
        ("blank.md", " \n\n", "holds no text, or blank ones only"),
        ("nul.txt", b"a\x00b\n", "nul.txt line 1: holds a NUL byte"),
        ("latin.txt", b"fine\ncaf\xe9\n", "latin.txt line 2: not UTF-8"),
        ("latin.jsonl", b'{"text": "caf\xe9"}\n', "latin.jsonl line 1: not UTF-8"),
        ("broken.jsonl", '{"text": "a"}\n{"text"\n', "broken.jsonl line 2: not JSON"),
        ("list.jsonl", "[1]\n", "list.jsonl line 1: a JSON list, not an object"),
        ("keys.jsonl", lines({"body": "a"}), "keys.jsonl line 1: lacks the key 'text'"),
        ("null.jsonl", lines({"text": None}), "line 1: its 'text' is a NoneType, not a string"),
        ("title.jsonl", lines({"text": "a", "title": 3}), "line 1: its 'title' is a int, not a"),
        (
            "zipped.jsonl",
            gzip.compress(b"{}", mtime=0),
            "zipped.jsonl: expected .* found gzip data",
        ),
        (
            "zipped.txt.gz",
            gzip.compress(b"a", mtime=0),
            "zipped.txt.gz: expected .* found gzip data",
        ),
        ("table.csv", "text\na\n", "are read from .jsonl, .txt and .md files, not '.csv'"),
        ("beir/corpus.jsonl", lines({"_id": "1"}), "corpus.jsonl line 1: lacks the key 'text'"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(write, name, content, message):
    path = write(name, content)
    source = path.parent if name.startswith("beir") else path
    with pytest.raises(ValueError, match=message) as raised:
        load_calibration(source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [
        "gone.jsonl",
        "data/gone.txt",
        "/no/such/folder",
        "./no/such",
        "../gone",
        "word",
        "",
        "a/b/c",
        Path("owner/name"),
        "A whole text, given by mistake.\nIt is long. " * 200,
    ],
)
def test_a_source_that_is_not_there_is_a_missing_file(source):
    with pytest.raises(FileNotFoundError, match="nothing is there; expected a .jsonl") as raised:
        load_calibration(source)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (["a", 3], "text 1 is a int, not a string"),
        ([], "texts: holds no text"),
        ([" "], "texts: holds no text"),
        (b"bytes", "source of type bytes is not known"),
        (7, "source of type int is not known"),
        ({"a"}, "source of type set is not known"),
    ],
)
def test_a_source_of_another_kind_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        load_calibration(source)


# The datasets package


@pytest.fixture
def parquet_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    train = {"title": ["T", None], "text": ["one", "two"], "body": ["body 1", "body 2"]}
    train["count"] = [1, 2]
    datasets.Dataset.from_dict(train).to_parquet(folder / "train.parquet")
    datasets.Dataset.from_dict({"text": ["held out"]}).to_parquet(folder / "test.parquet")
    return folder


def test_a_folder_that_datasets_can_load_is_streamed(parquet_folder):
    loaded = load_calibration(str(parquet_folder))
    assert loaded.texts == ("T one", "two")
    assert loaded.source == str(parquet_folder)
    assert load_calibration(parquet_folder) == loaded


def test_config_split_and_column_are_read_from_the_name(parquet_folder, monkeypatch):
    monkeypatch.chdir(parquet_folder.parent.parent)
    assert load_calibration("owner/name").texts == ("T one", "two")
    assert load_calibration("owner/name:default").texts == ("T one", "two")
    assert load_calibration("owner/name:default:test").texts == ("held out",)
    assert load_calibration("owner/name::test").texts == ("held out",)
    assert load_calibration("owner/name#body").texts == ("body 1", "body 2")
    assert load_calibration("owner/name:default:train#title").texts == ("T",)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("::validation", r"datasets refuses config=None, split='validation' \(Bad split"),
        (":missing", r"datasets refuses config='missing', split='train' \(BuilderConfig"),
        ("#missing", r"row 1: lacks the column 'missing'; name one of \['body', 'count', 'text'"),
        ("#count", r"row 1: its 'count' is a int, not a string"),
        ("::test#body", r"holds no text, or blank ones only"),
    ],
)
def test_a_split_config_or_column_that_is_not_there_is_named(parquet_folder, suffix, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_calibration(f"{parquet_folder}{suffix}")
    assert "\n" not in str(raised.value)


def test_a_folder_without_data_is_a_missing_file(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(FileNotFoundError, match="datasets finds no data there"):
        load_calibration(tmp_path)


def test_a_stream_is_cut_before_it_is_sampled(tmp_path, monkeypatch, caplog):
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text(lines(*({"text": f"{i:03d}"} for i in range(100))))
    monkeypatch.setattr(calibration, "MAX_STREAMED_ROWS", 10)
    with caplog.at_level(logging.INFO):
        texts = load_calibration(tmp_path, limit=5).texts
    assert len(texts) == 5
    assert max(texts) < "010"
    assert "sampling from its first 10 rows" in caplog.text
    assert len(load_calibration(tmp_path, limit=20)) == 20
    assert len(load_calibration(tmp_path, limit=None)) == 100


def test_a_name_that_cannot_be_looked_up_says_so(monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="no/name: .* datasets cannot reach the Hub"):
        load_calibration("no/name")


def test_without_the_datasets_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[eval\]"'):
        load_calibration("owner/name")


# Real data


@pytest.mark.real_data
def test_a_real_corpus_gives_256_different_documents(scifact):
    loaded = load_calibration(scifact)
    assert len(set(loaded.texts)) == 256
    assert loaded == load_calibration(scifact)
