"""A part of a data set, for models that would take hours on the whole, and what differs on it."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import fmean

import numpy as np

from effir_integrations.data.beir import RetrievalData
from effir_integrations.evaluation.intervals import interval


def subset(
    data: RetrievalData, *, queries: int | None = None, others: int | None = None, seed: int = 0
) -> RetrievalData:
    """Return some queries and what is searched for them: figures are higher than on the whole.

    Args:
        data: The whole.
        queries: So many, drawn at random. Default: all.
        others: Documents relevant to none of the queries, beside those that are. Default: all.
        seed: Of both draws.
    """
    chosen = sorted(data.queries)
    if queries is not None and queries < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, queries))
    qrels = data.qrels if queries is None else {query: data.qrels[query] for query in chosen}
    documents = sorted(data.documents)
    if others is not None:
        wanted = {x for grades in qrels.values() for x, grade in grades.items() if grade > 0}
        rest = [document for document in documents if document not in wanted]
        wanted.update(random.Random(seed).sample(rest, min(others, len(rest))))
        documents = sorted(wanted & data.documents.keys())
    return replace(
        data,
        queries={query: data.queries[query] for query in chosen},
        qrels=qrels,
        documents={document: data.documents[document] for document in documents},
    )


def difference(values: dict[str, float], others: dict[str, float] | None) -> str:
    """Return the mean difference, and where 95 % of the resampled ones lie."""
    if others is None:
        return "-"
    low, high = interval(np.subtract, values, others)
    return f"{fmean(values.values()) - fmean(others.values()):+.4f} [{low:+.4f}, {high:+.4f}]"
