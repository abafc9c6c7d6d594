from __future__ import annotations

import sys

import pytest

from effir_integrations.data.hub import DatasetName, parse_dataset_name, shown, stream_rows


def named(name="owner/name", config=None, split="train", column=None):
    return DatasetName(name=name, config=config, split=split, column=column)


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("owner/name", named()),
        ("owner/name:en", named(config="en")),
        ("owner/name:en:dev", named(config="en", split="dev")),
        ("owner/name::dev", named(split="dev")),
        ("owner/name#body", named(column="body")),
        ("owner/name:en:dev#body", named(config="en", split="dev", column="body")),
    ],
)
def test_a_name_says_config_split_and_column(tmp_path, monkeypatch, spelling, expected):
    monkeypatch.chdir(tmp_path)
    assert parse_dataset_name(spelling) == expected


@pytest.mark.parametrize("spelling", ["name", "a/b/c", "a/b.jsonl", "a/b.csv", "./a", "", "a b/c"])
def test_what_is_neither_folder_nor_hub_name_is_none(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    assert parse_dataset_name(spelling) is None


def test_a_folder_is_taken_whatever_its_name(tmp_path):
    folder = tmp_path / "odd:name#1"
    folder.mkdir()
    assert parse_dataset_name(folder) == parse_dataset_name(str(folder)) == named(str(folder))


def test_the_extra_that_is_missing_is_that_of_the_caller(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[train\]"'):
        stream_rows("owner/name", named(), extra="train")


def test_a_long_source_is_shown_in_short():
    assert shown("a\nb") == repr("a\nb")
    assert len(shown("x" * 1000)) < 100
