"""The same with `torch.compile`, as the paper has it: what it costs first, and what it gains."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from effir_integrations import Encoder
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.shapes import Shapes

from .clock import Clock
from .inputs import FULL, MAIN, Setting, make_encoder, sizes
from .meters import figure, free, in_use, least_cosine, time_in_turns, time_once
from .results import Results, Section
from .table import KINDS, LEAST_COSINE, PAPER, billions, cosine, peak, shown_times, speed, times

CUTS = (FULL, MAIN)


def run(setting: Setting, results: Results, clock: Clock) -> None:
    """Compile the full model and the main setting, one in memory at a time."""
    full: dict[str, Any] = {}
    for cut in CUTS:
        # what is compiled for one model is kept by its code, which both share
        torch.compiler.reset()
        encoder = make_encoder(setting, setting.shape, cut)
        facts = {**sizes(encoder), "resident": in_use(setting.device)}
        runs = {kind: _run(encoder, texts) for kind, texts in setting.texts.items()}
        # once for warmth and for vectors to compare with
        plain = {kind: run() for kind, run in runs.items()}
        eager = time_in_turns(runs, setting.rounds, setting.device)
        seconds = time_once(partial(_compile, encoder, setting), setting.device).seconds
        kinds = {}
        for kind, timed in runs.items():
            vectors = timed()
            kinds[kind] = {
                "texts": len(setting.texts[kind]),
                **time_in_turns({kind: timed}, setting.rounds, setting.device)[kind],
                "cosine": least_cosine(vectors, plain[kind]),
            }
        full = full or kinds
        results.add(
            model=cut.name,
            compile_seconds=seconds,
            paper=PAPER[cut],
            times_full={kind: times(full, kinds, kind) for kind in KINDS},
            times_eager={kind: times(eager, kinds, kind) for kind in KINDS},
            **facts,
            **kinds,
        )
        for kind in KINDS:
            what = f"cosine of compiled with not compiled, {kind}, {cut.name}"
            results.check(what, kinds[kind]["cosine"], least=LEAST_COSINE)
        del encoder, runs
        free()


def _run(encoder: Encoder, texts: Any) -> Any:
    return lambda: encoder.encode(list(texts))


def _compile(encoder: Encoder, setting: Setting) -> None:
    """Do what `load(compile=True)` does, for the lengths that occur instead of all up to 512."""
    encoder.shapes = Shapes(batch_tokens=encoder.batch_tokens)
    transformer_model(encoder).compile(dynamic=False, backend=setting.backend)
    longest = {
        encoder.shapes.tokens(len(ids))
        for texts in setting.texts.values()
        for ids in encoder.tokenizer(list(texts))["input_ids"]
    }
    for length in sorted(longest):
        encoder.encode([" ".join(["w1"] * (length - 2))])


def _seconds(row: Any) -> str:
    return figure(row["compile_seconds"])


def _eager(kind: str) -> Any:
    return shown_times("times_eager", kind)


SECTION = Section(
    name="compiled",
    title="With torch.compile",
    text="`Encoder` alone, compiled for the padded lengths that these texts have; texts are padded "
    "to 32, 128 or 192 tokens and every batch to its full number of rows. Compiling includes the "
    "first run of each length.",
    columns={
        "model": lambda row: row["model"],
        "compiling, s": _seconds,
        "queries/s": speed("queries"),
        "times not compiled": _eager("queries"),
        "times full, compiled": shown_times("times_full", "queries"),
        "documents/s": speed("documents"),
        "times not compiled ": _eager("documents"),
        "times full, compiled ": shown_times("times_full", "documents"),
        "non-embedding": billions("non_embedding"),
        "peak, GB": peak,
        "least cosine to not compiled": cosine,
        "the paper": lambda row: row["paper"],
    },
    run=run,
    seconds=190,
)
