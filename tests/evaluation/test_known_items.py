from __future__ import annotations

import json
import random

import pytest

from effir_integrations.evaluation.known_items import Record, known_items, read_records

BODY = "It names nine words of which none is in the title here. "


def records(count: int, title: str = "The title of {}", text: str = BODY) -> list[Record]:
    return [Record(title.format(number), text.format(number)) for number in range(count)]


def test_a_title_asks_for_what_stood_under_it():
    made = known_items(records(6), 4)
    assert len(made.queries) == 4 and made.source == "4 titles"
    for query, place in zip(made.queries, made.answers, strict=True):
        assert query == f"The title of {place}"
        assert made.documents[place] == BODY
    others = set(range(6)) - set(made.answers)
    assert all(made.documents[place].startswith("The title of") for place in others)


def test_a_first_sentence_asks_for_the_rest_where_titles_are_too_few():
    untitled = records(3, "", "Text number {} begins like this. " + BODY)
    made = known_items([*records(2), *untitled], 4)
    assert made.source == "2 titles and 2 first sentences"
    asked = dict(zip(made.answers, made.queries, strict=True))
    for place in set(asked) & {2, 3, 4}:
        assert asked[place] == f"Text number {place - 2} begins like this."
        assert made.documents[place] == BODY.strip()


def test_what_several_records_have_is_not_asked():
    made = known_items([*records(3, "The same title"), *records(2)], 10)
    assert sorted(made.queries) == ["The title of 0", "The title of 1"]


@pytest.mark.parametrize("record", [Record("Short", BODY), Record("A long enough title", "few")])
def test_what_is_too_short_is_not_asked(record):
    made = known_items([record], 1)
    assert (made.queries, made.documents) == ([], [record.whole])


def test_the_seed_settles_what_is_asked():
    given = records(40)
    draws = [known_items(given, 5, seed).queries for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_corpus_is_read_from_what_people_have(tmp_path):
    rows = [{"_id": "a", "title": "T", "text": "one"}, {"text": "two"}, {"text": " "}]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n")
    expected = [Record("T", "one"), Record("", "two")]
    assert read_records(tmp_path, 9) == read_records(tmp_path / "corpus.jsonl", 9) == expected
    assert [x.whole for x in expected] == ["T one", "two"]
    assert read_records(tmp_path / "texts.txt", 9) == read_records(["one", "two"], 9)
    with pytest.raises(ValueError, match=r"texts.csv is no corpus; give a BEIR folder, a .jsonl"):
        read_records(tmp_path / "texts.csv", 9)
    (tmp_path / "bad.jsonl").write_text('{"text": 3}')
    with pytest.raises(ValueError, match="line 1: title and text must be strings"):
        read_records(tmp_path / "bad.jsonl", 9)


def test_a_sample_is_drawn_from_all_of_a_corpus_in_its_order():
    texts = [f"text {number:03}" for number in range(500)]
    drawn = [record.text for record in read_records(texts, 50)]
    assert drawn == sorted(drawn) and len(set(drawn)) == 50
    half = sum(text < "text 250" for text in drawn)
    assert 10 < half < 40
    assert drawn != [record.text for record in read_records(texts, 50, seed=1)]
    random.seed(0)
    assert drawn == [record.text for record in read_records(texts, 50)]
