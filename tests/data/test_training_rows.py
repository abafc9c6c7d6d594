from __future__ import annotations

import json

import pytest

from effir_integrations.data.training_rows import has_scores

ROW = {"query": "q", "pos": ["p"], "neg": ["n"]}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ROW, ROW], False),
        ([ROW, {**ROW, "pos_scores": [1], "neg_scores": [0]}], True),
        ([{**ROW, "neg_scores": [0]}], True),
        ([{**ROW, "pos_scores": None, "neg_scores": None}], False),
        ([], False),
    ],
)
def test_scores_anywhere_in_a_file_are_seen(tmp_path, rows, expected):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert has_scores(path) is has_scores(str(path)) is has_scores(rows) is expected


def test_a_beir_folder_has_no_scores_and_is_not_read(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("not read")
    assert not has_scores(tmp_path)


def test_of_a_dataset_the_first_row_is_looked_at(tmp_path):
    datasets = pytest.importorskip("datasets")
    scores = [{"pos_scores": [1.0], "neg_scores": [0.0]}, {"pos_scores": None, "neg_scores": None}]
    for name, order in (("a", scores), ("b", scores[::-1])):
        (tmp_path / name).mkdir()
        rows = [{**ROW, **score} for score in order]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / name / "train.parquet")
    assert has_scores(tmp_path / "a")
    assert not has_scores(tmp_path / "b")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is there; expected a .jsonl file"):
        has_scores(tmp_path / "nothing.jsonl")
