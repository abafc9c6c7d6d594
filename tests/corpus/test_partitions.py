"""Parts hold every line and row exactly once, wherever a corpus is cut."""

from __future__ import annotations

import json
import os

import pytest

from effir_integrations.corpus.partitions import Part, corpus_files, plan_parts, read_part

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")


def read(corpus, part_bytes):
    """Return the records of all parts, and how many there were."""
    parts = plan_parts(corpus_files(str(corpus)), part_bytes)
    assert [part.number for part in parts] == list(range(len(parts)))
    return [pair for part in parts for pair in zip(*read_part(part), strict=True)], len(parts)


def write_lines(path, records, end="\n"):
    path.write_text(end.join(json.dumps(record, ensure_ascii=False) for record in records) + end)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_every_line_is_in_one_part_wherever_the_file_is_cut(tmp_path, end):
    texts = ["a", "Grüße", "x" * 90, "", "end"]
    records = [{"_id": str(number), "text": text} for number, text in enumerate(texts)]
    write_lines(tmp_path / "c.jsonl", records, end)
    expected = [(record["_id"], record["text"]) for record in records]
    size = os.path.getsize(tmp_path / "c.jsonl")

    for part_bytes in range(1, size + 2):
        found, parts = read(tmp_path / "c.jsonl", part_bytes)
        assert found == expected, part_bytes
        assert parts == -(-size // part_bytes)


def test_the_last_line_needs_no_newline_and_the_first_may_have_a_mark(tmp_path):
    content = (
        b'\xef\xbb\xbf{"id": 7, "contents": "a", "metadata": {"b": [1]}}\n{"id": "8", "text": "b"}'
    )
    (tmp_path / "c.jsonl").write_bytes(content)

    for part_bytes in range(1, len(content) + 1):
        assert read(tmp_path / "c.jsonl", part_bytes)[0] == [("7", "a"), ("8", "b")]


@pytest.mark.parametrize("group_rows", [1, 3, 100])
def test_every_row_is_in_one_part_wherever_the_file_is_cut(tmp_path, group_rows):
    table = pyarrow.table(
        {
            "_id": list(range(11)),
            "title": [None] * 10 + ["T"],
            "text": [f"text {number}" for number in range(11)],
            "metadata": [{"url": "u"}] * 11,
        }
    )
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=group_rows)
    expected = [(str(number), f"text {number}") for number in range(10)] + [("10", "T text 10")]

    counts = set()
    for part_bytes in (1, 20, 40, 80, 10**6):
        found, parts = read(tmp_path / "c.parquet", part_bytes)
        assert found == expected
        counts.add(parts)
    assert min(counts) == 1 and max(counts) == 11


@pytest.mark.parametrize("part_bytes", [5, 1000])
@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"_id": "3", "text": 3}', r"c\.jsonl line 4: '3' has no text \(found int\)"),
        (b'{"text": "x"}', r"c\.jsonl line 4: no id \(found None\)"),
        (b'{"_id": "3", "te', r"""c\.jsonl line 4: not JSON in UTF-8 .*: '\{"_id": "3", "te'"""),
        (b"\xff\xfe", r"c\.jsonl line 4: not JSON in UTF-8"),
        (b"[1]", r"c\.jsonl line 4: a JSON list"),
        (b"[" * 100_000, r"c\.jsonl line 4: not JSON in UTF-8"),
        (b'{"_id": "\\ud800", "text": "x"}', r"c\.jsonl line 4: the id .* is not valid Unicode"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, error, part_bytes):
    good = b'{"_id": "1", "text": "a"}\n'
    (tmp_path / "c.jsonl").write_bytes(good + b"\n" + good + line + b"\n" + good)
    with pytest.raises(ValueError, match=error):
        read(tmp_path / "c.jsonl", part_bytes)


def test_a_bad_row_is_named(tmp_path):
    table = pyarrow.table({"id": ["a", "b", None], "text": ["x", "y", "z"]})
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=1)
    with pytest.raises(ValueError, match=r"c\.parquet row 3: no id"):
        read(tmp_path / "c.parquet", 1)


def test_parquet_without_the_columns_or_the_end_is_refused_when_parts_are_planned(tmp_path):
    parquet.write_table(pyarrow.table({"id": ["a"], "body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has no column of texts among id, body"):
        plan_parts(corpus_files(str(tmp_path / "a.parquet")), 10)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"b\.parquet is no whole Parquet file"):
        plan_parts(corpus_files(str(tmp_path / "b.parquet")), 10)


def names(corpus, **options):
    return [os.path.basename(file.path) for file in corpus_files(str(corpus), **options)]


def test_a_folder_is_read_but_for_what_is_hidden_and_what_is_left_out(tmp_path):
    for name in (
        "b.jsonl",
        "a.json",
        "in/c.ndjson",
        "_x/d.jsonl",
        ".e.jsonl",
        "f.txt",
        "out/g.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")

    assert names(tmp_path, leave_out=str(tmp_path / "out")) == ["a.json", "b.jsonl", "c.ndjson"]
    assert names(f"{tmp_path}/b.jsonl, {tmp_path}/in") == ["b.jsonl", "c.ndjson"]


def test_of_a_beir_folder_the_corpus_is_taken_alone(tmp_path):
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_text("{}\n")

    assert names(tmp_path) == ["corpus.jsonl"]


def test_what_is_no_corpus_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "a.jsonl.gz").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "a.jsonl").write_text("{}\n")
    (tmp_path / "both" / "a.parquet").write_text("")
    for corpus, kind, error in [
        ("absent", FileNotFoundError, "nothing is there"),
        ("empty", FileNotFoundError, "holds no file that ends in .jsonl"),
        ("both", ValueError, "holds JSON and Parquet files"),
        ("a.jsonl.gz", ValueError, "of no known kind; give a file that ends in .jsonl"),
        (f"a.jsonl,{tmp_path}/a.jsonl", ValueError, "a.jsonl is named twice"),
        ("a.jsonl,", ValueError, "a corpus without a name"),
    ]:
        with pytest.raises(kind, match=error):
            corpus_files(f"{tmp_path}/{corpus}")


def test_parts_are_plain_values(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"_id": "1", "text": "x"}\n')

    (part,) = plan_parts(corpus_files(str(tmp_path)), 100)

    assert part == Part(number=0, path=str(tmp_path / "a.jsonl"), start=0, stop=26)
