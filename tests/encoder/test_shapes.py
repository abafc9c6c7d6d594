"""A compiled model sees few shapes, and each text fits one."""

from __future__ import annotations

from effir_integrations.encoder.shapes import LENGTHS, Shapes


def test_lengths_are_rounded_up_to_the_few_that_are_compiled():
    shapes = Shapes(batch_tokens=4096)
    assert [shapes.tokens(x) for x in (1, 32, 33, 500, 513, 1025)] == [32, 32, 64, 512, 1024, 1536]
    assert shapes.lengths(256) == [32, 64, 128, 192, 256]
    assert shapes.lengths(1) == [32]
    assert all(shapes.tokens(x) >= x for x in range(1, 3000))


def test_every_length_has_one_number_of_rows_within_the_budget():
    shapes = Shapes(batch_tokens=1000)
    assert [shapes.rows(length) for length in LENGTHS] == [31, 15, 7, 5, 3, 2, 1]
    assert shapes.rows(4096) == 1
