"""Ids and texts are found in every spelling, and a record without them is refused."""

from __future__ import annotations

import pytest

from effir_integrations.data.records import identified_text


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"_id": "1", "title": "A title", "text": "and text"}, ("1", "A title and text")),
        ({"docid": "1", "title": None, "text": " text"}, ("1", "text")),
        ({"id": 31715818, "contents": "text"}, ("31715818", "text")),
        ({"qid": "q", "query": "what"}, ("q", "what")),
        ({"_id": "1", "text": ""}, ("1", "")),
        ({"id": None, "_id": "2", "text": "x"}, ("2", "x")),
    ],
)
def test_spellings_of_retrieval_corpora(record, expected):
    assert identified_text(record, "line 1") == expected


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"text": "x"}, r"line 1: no id \(found None\); give one of the keys docid, _id"),
        ({"_id": "", "text": "x"}, "no id"),
        ({"_id": True, "text": "x"}, r"no id \(found True\)"),
        ({"_id": "7"}, r"'7' has no text \(found NoneType\); give one of the keys text"),
        ({"_id": "7", "text": 3}, r"'7' has no text \(found int\)"),
        ({"_id": "7", "text": "x", "title": 3}, "the title of '7' is a int"),
    ],
)
def test_a_record_without_id_or_text_is_refused(record, error):
    with pytest.raises(ValueError, match=error):
        identified_text(record, "line 1")
