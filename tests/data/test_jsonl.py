from __future__ import annotations

import gzip
import itertools
import json

import pytest

from effir_integrations.data.jsonl import read_jsonl, read_lines


@pytest.fixture
def write(tmp_path):
    def write_bytes(content):
        path = tmp_path / "corpus.jsonl"
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write_bytes


def test_objects_come_with_their_line_numbers_and_blank_lines_count(write):
    path = write('{"a": 1}\n\n  \n{"a": "é"}\r\n{"a": null}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": "é"}), (5, {"a": None})]


def test_a_unicode_line_separator_does_not_end_a_line(write):
    value = {"text": "one\u2028two\x85three"}
    path = write(json.dumps(value, ensure_ascii=False) + "\n")
    assert list(read_jsonl(path)) == [(1, value)]


def test_a_byte_order_mark_is_allowed(write):
    assert list(read_jsonl(write(b"\xef\xbb\xbf" + b'{"a": 1}\n'))) == [(1, {"a": 1})]


def test_an_empty_file_yields_nothing(write):
    assert list(read_jsonl(write(""))) == []


def test_lines_are_read_only_as_they_are_asked_for(write):
    path = write('{"a": 1}\n{"a": 2}\nbroken\n')
    assert [line for line, _ in itertools.islice(read_jsonl(path), 2)] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": \n', r"corpus\.jsonl line 2: not JSON \(.*\): .*'; each line must be"),
        ("x" * 500, r"line 1: not JSON .*'x{60}\.\.\.'"),
        ("[" * 100_000, r"line 1: not JSON"),
        ("9" * 10_000, r"line 1: not JSON"),
        ("[1, 2]\n", r"line 1: a JSON list, not an object: '\[1, 2\]'"),
        ('{"a": 1}\n\n"text"\n', r"line 3: a JSON str, not an object"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', r"line 2: not UTF-8 \(byte 0xe9 at column 11\)"),
        ('{"a": 1}\n'.encode("utf-16-le"), r"line 1: holds a NUL byte"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line_in_one_line(write, content, message):
    with pytest.raises(ValueError, match=message) as raised:
        list(read_jsonl(write(content)))
    assert "\n" not in str(raised.value)


def test_a_missing_key_is_named_with_the_keys_that_are_there(write):
    path = write('{"_id": "1", "text": ""}\n{"_id": "2", "body": "b"}\n')
    rows = read_jsonl(path, required=["_id", "text"])
    assert next(rows) == (1, {"_id": "1", "text": ""})
    with pytest.raises(ValueError, match=r"line 2: lacks the key 'text'; its keys are: '_id', 'bo"):
        next(rows)


def test_required_as_one_string_is_refused(write):
    with pytest.raises(ValueError, match="one string"):
        read_jsonl(write("{}"), required="text")


def test_path_errors_come_at_the_call(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl: expected a JSON Lines file"):
        read_jsonl(tmp_path / "gone.jsonl")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        read_jsonl(str(tmp_path))
    with pytest.raises(ValueError, match="found gzip data; unpack it"):
        read_jsonl(write(gzip.compress(b'{"a": 1}\n')))


def test_text_lines_are_stripped_and_numbered(write):
    assert list(read_lines(write("one \n\n\ttwo\r\n"))) == [(1, "one"), (3, "two")]


def test_text_lines_refuse_binary(write):
    with pytest.raises(ValueError, match="line 2: holds a NUL byte"):
        list(read_lines(write(b"fine\n\x00\x01\n")))
    with pytest.raises(ValueError, match="line 1: not UTF-8"):
        list(read_lines(write(b"\xff\xfe\n")))
