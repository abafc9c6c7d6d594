"""Where a sentence ends, and which one follows it."""

from __future__ import annotations

import pytest

from effir_integrations.data.sentences import sentence_pairs, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A moss is a plant. It is a small one!", ["A moss is a plant.", "It is a small one!"]),
        ('He said it twice. "Nobody was there then." (All had left by noon.)',
         ["He said it twice.", '"Nobody was there then." (All had left by noon.)']),
        ("About 3.5 km, e.g. from here to there.", ["About 3.5 km, e.g. from here to there."]),
        ("The title of a text\n\nand its first line",
         ["The title of a text", "and its first line"]),
        ("Es war einmal ein König. Über ihn ist wenig bekannt.",
         ["Es war einmal ein König.", "Über ihn ist wenig bekannt."]),
        ("苔は小さな植物です。森に生えます。", ["苔は小さな植物です。", "森に生えます。"]),
        ("It took all of them. Long ago. Nobody knows it now.",
         ["It took all of them. Long ago.", "Nobody knows it now."]),
        ("word", ["word"]),
        ("  ", []),
    ],
)  # fmt: skip
def test_sentences_end_at_full_stops_before_a_capital_and_at_blank_lines(
    text: str, expected: list[str]
) -> None:
    assert sentences(text) == expected


def test_the_last_sentence_of_a_text_is_not_followed_by_the_next_text() -> None:
    texts = ["The first is here. The second is there. The third is nowhere.", "One is alone."]
    assert list(sentence_pairs(texts)) == [
        ("The first is here.", "The second is there."),
        ("The second is there.", "The third is nowhere."),
    ]
