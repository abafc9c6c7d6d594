"""The three kinds of files come back as they were written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from effir_integrations.data.vector_files import (
    NPY_HEADER_BYTES,
    check_ending,
    check_id,
    ids_path,
    npy_header,
    write_ids,
    write_jsonl,
    write_parquet,
)


def odd_vectors():
    """Return every kind of finite float32: subnormal, huge, integer, zero, random bits."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 4000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)][:3900]
    values[:6] = [0.0, 1.0, -1e-45, 3.4028235e38, 0.1, -2.0]
    return values.reshape(-1, 39)


@pytest.mark.parametrize("shape", [(0, 1), (3, 4), (10**15, 16384)])
def test_the_npy_header_has_one_length_and_numpy_reads_it(shape, tmp_path):
    header = npy_header(*shape)
    assert len(header) == NPY_HEADER_BYTES
    path = tmp_path / "v.npy"
    path.write_bytes(header)
    with path.open("rb") as stream:
        assert np.lib.format.read_magic(stream) == (1, 0)
        assert np.lib.format.read_array_header_1_0(stream) == (shape, False, np.dtype("<f4"))
        assert stream.tell() == NPY_HEADER_BYTES


def test_the_npy_file_is_mapped(tmp_path):
    vectors = odd_vectors()
    (tmp_path / "v.npy").write_bytes(npy_header(*vectors.shape) + vectors.tobytes())
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert np.array_equal(mapped, vectors)


def blocks(vectors):
    ids = [f"d{row}" for row in range(len(vectors))]
    return [(ids[start : start + 30], vectors[start : start + 30]) for start in range(0, 100, 30)]


def test_jsonl_gives_every_float32_back(tmp_path):
    vectors = odd_vectors()
    write_jsonl(tmp_path / "v.jsonl", blocks(vectors), vectors.shape[1])
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [["docid", "vector"]] * 100
    assert [row["docid"] for row in rows] == [f"d{row}" for row in range(100)]
    assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), vectors)


def test_parquet_has_the_columns_of_anserini_and_a_row_group_a_block(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    vectors = odd_vectors()
    write_parquet(tmp_path / "v.parquet", blocks(vectors), vectors.shape[1])
    file = parquet.ParquetFile(tmp_path / "v.parquet")
    assert [str(field.type) for field in file.schema_arrow][:1] == ["string"]
    assert str(file.schema_arrow.field("vector").type.value_type) == "float"
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert groups == [30, 30, 30, 10]
    table = file.read()
    assert table["docid"].to_pylist() == [f"d{row}" for row in range(100)]
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors)


def test_ids_are_lines_of_utf8(tmp_path):
    write_ids(tmp_path / "ids.txt", [["a", "ü"], ["中"]])
    assert (tmp_path / "ids.txt").read_bytes() == "a\nü\n中\n".encode()


@pytest.mark.parametrize("identifier", ["a\nb", "a\n", "\r", "a\u2028b", "a\x85", "a\x0b"])
def test_a_line_break_in_an_id_is_refused_only_where_ids_are_lines(identifier):
    with pytest.raises(ValueError, match=r"here: the id .* holds a line break.*; write \.parquet"):
        check_id(identifier, "here", line_break="write .parquet")
    check_id(identifier, "here")


@pytest.mark.parametrize("line_break", [None, "write .parquet"])
def test_half_a_surrogate_pair_in_an_id_is_refused(line_break):
    with pytest.raises(ValueError, match="half a surrogate pair"):
        check_id("a\ud800", "here", line_break=line_break)


def test_ids_with_line_breaks_come_back_from_jsonl(tmp_path):
    write_jsonl(tmp_path / "v.jsonl", [(["a\nb", "\u2028"], np.ones((2, 1), np.float32))], 1)
    with (tmp_path / "v.jsonl").open(encoding="utf-8") as stream:
        assert [json.loads(line)["docid"] for line in stream] == ["a\nb", "\u2028"]


def test_the_ending_decides(tmp_path):
    assert ids_path(tmp_path / "a.b.npy") == tmp_path / "a.b.ids.txt"
    assert ids_path(tmp_path / "a.jsonl") is None
    with pytest.raises(ValueError, match=r"a\.bin: vectors are written to \.npy, \.parquet, \.js"):
        check_ending(tmp_path / "a.bin")
