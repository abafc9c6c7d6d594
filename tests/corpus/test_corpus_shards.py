"""Shards appear whole, are plain Parquet, and are never mixed with those of other settings."""

from __future__ import annotations

import numpy as np
import pytest

from effir_integrations.corpus.shards import ClusterOutput, shard_name, write_shard

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")

MANIFEST = {"parts": 2, "max_length": 128, "files": [{"path": "/c.jsonl", "size": 1000}]}


def begin(folder, force=False, **changes):
    return ClusterOutput.open(str(folder), {**MANIFEST, **changes}, force=force)


def vectors(rows, dimension=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def test_a_shard_is_plain_parquet_that_any_reader_takes(tmp_path):
    windows = [vectors(3), vectors(2, seed=1)]
    write_shard(str(tmp_path), 7, ["a", "b", "ü", "d", "e"], windows)

    file = pq.ParquetFile(tmp_path / "part-000007.parquet")
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types == {"docid": "string", "vector": "list<element: float>"}
    assert file.num_row_groups == 2
    assert file.read()["docid"].to_pylist() == ["a", "b", "ü", "d", "e"]
    frame = pytest.importorskip("pandas").read_parquet(tmp_path / "part-000007.parquet")
    assert np.array_equal(np.stack(frame["vector"].to_numpy()), np.concatenate(windows))


def test_a_shard_whose_making_fails_does_not_appear_and_leaves_nothing_in_the_end(tmp_path):
    output = begin(tmp_path / "out")

    def failing():
        yield vectors(1)
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        write_shard(output.folder, 0, ["a", "b"], failing())
    assert output.missing() == [0, 1]
    with pytest.raises(RuntimeError, match=r"lacks 2 of 2 shards, the first part-000000\.parquet"):
        output.finish()
    write_shard(output.folder, 0, ["a", "b"], [vectors(2)])
    write_shard(output.folder, 0, ["a", "b"], [vectors(2)])  # as a retried task does
    write_shard(output.folder, 1, [], [])
    assert output.finish() == (2, 4)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "_effir.json",
        "part-000000.parquet",
        "part-000001.parquet",
    }


def test_too_few_vectors_for_the_ids_make_no_shard(tmp_path):
    with pytest.raises(RuntimeError, match="has 2 ids and 1 vectors"):
        write_shard(str(tmp_path), 0, ["a", "b"], [vectors(1)])
    assert not (tmp_path / shard_name(0)).exists()


def test_a_run_is_gone_on_from_with_the_same_settings_alone(tmp_path):
    output = begin(tmp_path / "out")
    write_shard(output.folder, 1, ["a"], [vectors(1)])

    assert begin(tmp_path / "out").missing() == [0]
    for changes, error in [
        ({"max_length": 256}, "max_length was 128, is 256; use the same"),
        ({"files": [{"path": "/c.jsonl", "size": 1001}]}, "/c.jsonl of 1,000 bytes, is 1,001"),
        ({"files": []}, "corpus was /c.jsonl of 1,000 bytes, is without it"),
        ({"files": [*MANIFEST["files"], {"path": "/d", "size": 2}]}, "was without /d, is 2 bytes"),
    ]:
        with pytest.raises(ValueError, match=f"out was begun otherwise: .*{error}"):
            begin(tmp_path / "out", **changes)
    assert begin(tmp_path / "out").missing() == [0]
    assert begin(tmp_path / "out", force=True, max_length=256).missing() == [0, 1]
    assert begin(tmp_path / "out", max_length=256).missing() == [0, 1]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(FileExistsError, match=r"is not empty and holds no _effir\.json"):
            begin(tmp_path, force=force)
        with pytest.raises(FileExistsError, match="is a file"):
            begin(tmp_path / "notes.txt", force=force)


def test_shards_of_two_dimensions_are_not_one_result(tmp_path):
    output = begin(tmp_path / "out")
    write_shard(output.folder, 0, ["a"], [vectors(1)])
    write_shard(output.folder, 1, ["b"], [vectors(1, dimension=5)])
    with pytest.raises(RuntimeError, match=r"have the dimensions \[4, 5\]"):
        output.finish()
