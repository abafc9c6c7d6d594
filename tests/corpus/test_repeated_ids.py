from __future__ import annotations

import random

import pytest

from effir_integrations.corpus import repeated_ids as module
from effir_integrations.corpus.repeated_ids import repeated_ids


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 20])
def test_repeats_are_counted_as_by_a_set_whatever_the_size_of_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    choose = random.Random(0)
    ids = [f"ü{choose.randrange(40)}" for _ in range(60)]
    windows = [ids[start : start + 7] for start in range(0, 60, 7)]

    found = repeated_ids(lambda: windows, 60, tmp_path / "hashes")

    assert found[0] == 60 - len(set(ids))
    assert ids.count(found[1]) > 1


def test_nothing_repeats(tmp_path):
    assert repeated_ids(lambda: [["a"], ["b"]], 2, tmp_path / "hashes") == (0, "")
