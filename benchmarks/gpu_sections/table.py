"""The paper's table 3: how fast the full and the pruned model encode, ours and others' ways."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from effir_integrations import Encoder
from effir_integrations.encoder.encoder import transformer_model

from .clock import Clock
from .inputs import DEPTH, FULL, LIMIT, MAIN, Cut, Setting, count_tokens, make_encoder, sizes
from .meters import figure, free, in_use, least_cosine, rate, time_in_turns
from .results import Results, Row, Section

CUTS = (FULL, MAIN, DEPTH, Cut(mlps=20), Cut(mlps=8))
"""The rows; those that the paper's headline rests on come first, should time run out."""
OURS = "Encoder"
STOCK = "SentenceTransformer.encode"
LOOP = "plain padded loop"
PAPER = {FULL: "1.00 / 1.00", MAIN: "1.97 / 1.82", DEPTH: "1.64 / 1.55", CUTS[3]: "1.93 / 1.80"}
"""Queries / documents, times full: 1,000 texts of NQ on one H100, with `torch.compile`."""
KINDS = ("queries", "documents")
LEAST_COSINE = 0.99
"""Of two ways to run one model in bf16."""


def run(setting: Setting, results: Results, clock: Clock) -> None:
    """Time every model, one in memory at a time."""
    full: dict[str, dict[str, Any]] = {}
    for cut in CUTS:
        encoder = make_encoder(setting, setting.shape, cut)
        facts = {**sizes(encoder), "resident": in_use(setting.device)}
        measured = time_contenders(contenders(encoder, setting), encoder, setting)
        full = full or measured
        for name, kinds in measured.items():
            results.add(
                model=cut.name,
                contender=name,
                paper=PAPER.get(cut, ""),
                times_full={kind: times(full[name], kinds, kind) for kind in KINDS},
                **facts,
                **kinds,
            )
        for name, kinds in measured.items():
            for kind in KINDS:
                what = f"cosine of {name} with {OURS}, {kind}, {cut.name}"
                results.check(what, kinds[kind]["cosine"], least=LEAST_COSINE)
        ways = [name for name, taken in vars(encoder.find_shortcuts()).items() if taken is True]
        results.note(
            f"{cut.name}: Encoder at {encoder.batch_tokens:,} tokens a batch, its fast ways: "
            + (", ".join(ways) or "none")
        )
        del encoder
        free()


def contenders(encoder: Encoder, setting: Setting) -> dict[str, dict[str, Any]]:
    """Return the ways to encode with one model: name -> kind of text -> run."""
    stock = SentenceTransformer(modules=list(encoder), device=setting.device)
    made: dict[str, dict[str, Any]] = {OURS: {}, STOCK: {}, LOOP: {}}
    for kind, texts in setting.texts.items():
        size = setting.batches[kind]
        made[OURS][kind] = partial(encoder.encode, list(texts))
        made[STOCK][kind] = partial(stock.encode, list(texts), batch_size=size)
        made[LOOP][kind] = partial(padded_loop, encoder, texts, size)
    return made


@torch.inference_mode()
def padded_loop(encoder: Encoder, texts: Sequence[str], size: int) -> torch.Tensor:
    """Encode in the order given, padded to the longest of a batch, as training scripts do."""
    model, found = transformer_model(encoder), []
    for start in range(0, len(texts), size):
        batch = encoder.tokenizer(
            list(texts[start : start + size]),
            padding=True,
            truncation=True,
            max_length=LIMIT,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(encoder.device)
        hidden = model(**batch).last_hidden_state
        last = batch["attention_mask"].sum(1) - 1
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), last]
        found.append(torch.nn.functional.normalize(pooled, dim=-1).float().cpu())
    return torch.cat(found)


def time_contenders(
    made: Mapping[str, Mapping[str, Any]], encoder: Encoder, setting: Setting
) -> dict[str, dict[str, Any]]:
    """Run all once, compare their vectors with the first's, then time them in turns.

    Returns:
        name -> kind of text -> texts, tokens, seconds of every round, peak in GB, least cosine.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in made}
    first = next(iter(made))
    for kind, texts in setting.texts.items():
        runs = {name: kinds[kind] for name, kinds in made.items()}
        vectors = {name: run() for name, run in runs.items()}
        shared = {"texts": len(texts), "tokens": count_tokens(encoder, texts)}
        for name, timed in time_in_turns(runs, setting.rounds, setting.device).items():
            cosine = least_cosine(vectors[name], vectors[first])
            found[name][kind] = {**shared, **timed, "cosine": cosine}
    return found


def speed(kind: str) -> Any:
    """Return what a column shows of a row: texts a second."""
    return lambda row: rate(row[kind]["texts"], row[kind]["seconds"])


def times(before: Mapping[str, Any], after: Mapping[str, Any], kind: str) -> float:
    """Return by how much the median time of a kind of text became shorter."""
    slow, fast = (statistics.median(each[kind]["seconds"]) for each in (before, after))
    return slow / fast


def peak(row: Row) -> str:
    """Return the highest peak of a row, GB."""
    peaks = [row[kind]["peak"] for kind in KINDS if row[kind]["peak"] is not None]
    return figure(max(peaks, default=None))


def cosine(row: Row) -> str:
    """Return the least cosine of a row."""
    return f"{min(row[kind]['cosine'] for kind in KINDS):.5f}"


def billions(name: str) -> Any:
    """Return what a column shows of a row: a number of parameters."""
    return lambda row: f"{row[name] / 1e9:.3g}B" if row[name] >= 1e8 else f"{row[name]:,}"


def shown_times(name: str, kind: str) -> Any:
    """Return what a column shows of a row: how many times faster."""
    return lambda row: f"{row[name][kind]:.2f}" if row[name] else "-"


SECTION = Section(
    name="table",
    title="The paper's table 3",
    text="bf16, not compiled, medians of rounds in turns (slowest to fastest). Parameters are "
    "without LM head, as the paper counts, and without token embeddings. The last column is the "
    "paper's: queries and documents, times full, on one H100 with `torch.compile`.",
    columns={
        "model": lambda row: row["model"],
        "encoded by": lambda row: row["contender"],
        "parameters": billions("parameters"),
        "non-embedding": billions("non_embedding"),
        "queries/s": speed("queries"),
        "times full": shown_times("times_full", "queries"),
        "documents/s": speed("documents"),
        "times full ": shown_times("times_full", "documents"),
        "weights, GB": lambda row: figure(row["resident"]),
        "peak, GB": peak,
        "least cosine": cosine,
        "the paper": lambda row: row["paper"] if row["contender"] == OURS else "",
    },
    run=run,
    seconds=230,
)
