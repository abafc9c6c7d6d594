"""The order of examples: settled before a run, and free of false negatives."""

from __future__ import annotations

import datasets
import pytest

from effir_integrations.training.order import example_keys, training_order


def test_every_epoch_is_another_permutation() -> None:
    order = training_order(10, batch_size=5, steps=6, seed=3)
    epochs = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert order == training_order(10, batch_size=5, steps=6, seed=3)
    assert order != training_order(10, batch_size=5, steps=6, seed=4)


def test_a_longer_run_begins_as_a_shorter_one() -> None:
    short = training_order(10, batch_size=4, steps=3, seed=0)
    assert training_order(10, batch_size=4, steps=9, seed=0)[:12] == short


def test_no_batch_holds_a_query_twice_or_a_positive_as_a_negative() -> None:
    dataset = datasets.Dataset.from_dict(
        {
            "query": ["a", "a", "b", "c", "d", "e", "f", "g"],
            "positive": ["1", "2", "3", "4", "5", "6", "7", "8"],
            "negative_1": ["9", "9", "4", "9", "9", "5", "9", "9"],
            "label": [[1.0, 0.0]] * 8,
        }
    )
    keys = example_keys(dataset)
    order = training_order(8, batch_size=3, steps=40, seed=0, keys=keys)
    assert len(order) == 120
    for start in range(0, 120, 3):
        batch = set(order[start : start + 3])
        assert len(batch) == 3
        for conflict in ({0, 1}, {2, 3}, {4, 5}):
            assert not conflict <= batch
    counts = [order.count(example) for example in range(8)]
    assert max(counts) - min(counts) <= 2, "an example that had to wait is not forgotten"


def test_a_batch_that_can_never_be_filled_is_refused() -> None:
    keys = [("same", index, frozenset({index})) for index in range(6)]
    with pytest.raises(ValueError, match="batches of 2 cannot be filled from 6 examples"):
        training_order(6, batch_size=2, steps=1, seed=0, keys=keys)


def test_like_lengths_share_a_batch_and_no_example_is_lost() -> None:
    lengths = [(7 * index) % 640 for index in range(640)]
    order = training_order(640, batch_size=10, steps=64, seed=1, lengths=lengths)
    assert sorted(order) == list(range(640))
    batches = [[lengths[x] for x in order[start : start + 10]] for start in range(0, 640, 10)]
    assert all(max(batch) - min(batch) < 10 for batch in batches)
    assert [min(batch) for batch in batches] != sorted(min(batch) for batch in batches)
    assert order == training_order(640, batch_size=10, steps=64, seed=1, lengths=lengths)


def test_like_lengths_still_keep_a_query_from_its_own_batch() -> None:
    keys = [(index % 20, index, frozenset({index})) for index in range(40)]
    lengths = [index % 20 for index in range(40)]  # the two of a query are next to each other
    order = training_order(40, batch_size=4, steps=10, seed=0, keys=keys, lengths=lengths)
    for start in range(0, 40, 4):
        assert len({example % 20 for example in order[start : start + 4]}) == 4
