"""In which order examples are seen, settled for the whole run before it starts.

A run is then one pass over a list, whatever the number of processes, and resuming it is skipping
the batches that were done.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

Example = tuple[Hashable, Hashable, frozenset[Hashable]]
"""Query, positive, and all documents (the positive and its negatives) of an example."""


def example_keys(dataset: Any) -> list[Example]:
    """Return what tells the examples of a dataset of queries and documents apart."""
    columns = [name for name in dataset.column_names if name != "label"]
    keys: list[Example] = []
    for batch in dataset.select_columns(columns).iter(batch_size=1000):
        rows = zip(*(batch[name] for name in columns), strict=True)
        for query, positive, *negatives in rows:
            documents = frozenset(hash(text) for text in (positive, *negatives))
            keys.append((hash(query), hash(positive), documents))
    return keys


SORTED_BATCHES = 64
"""Batches that are sorted by length together: their order stays random, their padding shrinks."""


def training_order(
    examples: int,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    keys: Sequence[Example] | None = None,
    lengths: Sequence[int] | None = None,
) -> list[int]:
    """Return the `steps * batch_size` examples of a run, batch after batch.

    Every epoch is a new permutation. With `keys`, no batch holds two examples of one query, nor one
    whose positive is among another's documents: it would be pushed away as a negative. Such an
    example waits for the next batch. (`NoDuplicatesBatchSampler` of Sentence Transformers draws as
    it goes, and parts examples that share a negative too.) With `lengths`, examples of like length
    share a batch.

    Raises:
        ValueError: No batch of that size can be filled.
    """
    shuffled = _shuffled(examples, seed)
    if lengths is not None:
        shuffled = _by_length(shuffled, lengths, batch_size, seed)
    if keys is None:
        flow: Iterator[list[int]] = _cut(shuffled, batch_size)
    else:
        flow = _without_conflicts(shuffled, keys, batch_size)
    return [example for _, batch in zip(range(steps), flow, strict=False) for example in batch]


def _shuffled(examples: int, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(examples, generator=generator).tolist()


def _by_length(
    examples: Iterator[int], lengths: Sequence[int], batch_size: int, seed: int
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        window = sorted(islice(examples, SORTED_BATCHES * batch_size), key=lengths.__getitem__)
        for batch in torch.randperm(SORTED_BATCHES, generator=generator).tolist():
            yield from window[batch * batch_size : (batch + 1) * batch_size]


def _cut(examples: Iterable[int], batch_size: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for example in examples:
        batch.append(example)
        if len(batch) == batch_size:
            yield batch
            batch = []


def _without_conflicts(
    examples: Iterator[int], keys: Sequence[Example], batch_size: int
) -> Iterator[list[int]]:
    waiting: list[int] = []
    while True:
        batch = _Batch(keys)
        left = [example for example in waiting if not batch.take(example, batch_size)]
        tried = 0
        while len(batch.examples) < batch_size:
            example = next(examples)
            if not batch.take(example, batch_size):
                left.append(example)
            tried += 1
            if tried > 2 * len(keys):
                raise ValueError(
                    f"batches of {batch_size} cannot be filled from {len(keys)} examples without "
                    "one query or positive standing in another's way; lower the batch size, or "
                    "give more examples"
                )
        waiting = left
        yield batch.examples


class _Batch:
    """Examples that may stand in one batch."""

    def __init__(self, keys: Sequence[Example]) -> None:
        self.keys = keys
        self.examples: list[int] = []
        self.queries: set[Hashable] = set()
        self.positives: set[Hashable] = set()
        self.documents: set[Hashable] = set()

    def take(self, example: int, batch_size: int) -> bool:
        """Add an example if there is room and nothing speaks against it."""
        query, positive, documents = self.keys[example]
        if (
            len(self.examples) == batch_size
            or query in self.queries
            or positive in self.documents
            or self.positives & documents
        ):
            return False
        self.examples.append(example)
        self.queries.add(query)
        self.positives.add(positive)
        self.documents |= documents
        return True
