"""Two runs of the claims are compared row by row, and one that drifts is an error."""

from __future__ import annotations

import json

import pytest
import repeat_claims


def write_rows(folder, **ndcg):
    rows = {key: {"kind": "quality", "values": {"ndcg": value}} for key, value in ndcg.items()}
    rows["cosine"] = {"kind": "isotropy", "values": {"cosine": 0.25}}
    rows["timed"] = {"kind": "speed", "values": {"seconds": ndcg}}
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps(rows))
    return str(folder)


@pytest.fixture
def first(tmp_path):
    return write_rows(tmp_path / "first", full=0.6, pruned=0.5)


def test_rows_that_both_runs_have_are_compared(tmp_path, first, capsys):
    second = write_rows(tmp_path / "second", full=0.6, pruned=0.5015, other=0.1)
    repeat_claims.main([first, second])
    shown = capsys.readouterr().out
    assert "quality: 2 rows, 1 the same, largest difference 0.00150" in shown
    assert "isotropy: 1 rows, 1 the same" in shown


def test_a_difference_that_is_too_large_is_an_error(tmp_path, first):
    second = write_rows(tmp_path / "second", full=0.6, pruned=0.503)
    with pytest.raises(SystemExit, match=r"more than 0\.002"):
        repeat_claims.main([first, second])


def test_runs_of_different_things_are_refused(tmp_path, first, capsys):
    second = write_rows(tmp_path / "second", another=0.6)
    with pytest.raises(SystemExit):
        repeat_claims.main([first, second])
    assert "no row in common" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        repeat_claims.main([first, str(tmp_path / "nowhere")])
