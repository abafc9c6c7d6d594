from __future__ import annotations

import pytest

from effir_integrations.adapters.pyserini.options import Part, join, split

WORDS = ("input", "output", "encoder")


@pytest.mark.parametrize(
    ("option", "tokens"),
    [
        ("--dim", ["--dim", "384"]),
        ("--dimension", ["--dim", "384"]),
        ("--dimension", ["--dimens=384"]),
        ("--dimension", ["--dimension", "384"]),
    ],
)
def test_options_are_read_abbreviated_and_with_an_equals_sign(option, tokens):
    part = Part("", ["--hnsw", *tokens, "--other", "7"])
    assert part.value(option) == "384" and part.has(option)
    part.set(option, 12)
    assert part.tokens == ["--hnsw", "--other", "7", option, "12"]


def test_an_ambiguous_abbreviation_is_left_to_pyserini():
    assert not any(Part("", ["--enc", "x"]).has(name) for name in ("--encoder", "--encoder-class"))
    assert Part("", ["--encoder", "x"]).value("--encoder") == "x"


def test_options_of_several_values_and_of_none():
    part = Part("", ["--fields", "title", "text", "--fp16", "--query-prefix", ""])
    assert part.values("--fields") == ["title", "text"]
    assert part.values("--fp16") == [] and part.value("--fp16") is None and part.has("--fp16")
    assert part.values("--query-prefix") == [""] and part.values("--index") is None


def test_the_last_of_two_counts_as_it_does_for_argparse():
    assert Part("", ["--index", "a", "--index", "b"]).value("--index") == "b"


def test_parts_are_cut_at_their_words_and_joined_again():
    line = "input --corpus c output --embeddings e --to-faiss encoder --encoder m".split()
    parts = split(line, WORDS, "pyserini.encode")
    assert parts["output"].tokens == ["--embeddings", "e", "--to-faiss"]
    assert join(parts) == line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("input --corpus c encoder --encoder m", "'output' is missing"),
        ("input --corpus input output encoder", r"'input' .* twice; .*\./input"),
    ],
)
def test_missing_and_doubled_words_are_refused(line, message):
    with pytest.raises(ValueError, match=message):
        split(line.split(), WORDS, "pyserini.encode")
