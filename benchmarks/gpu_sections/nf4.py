"""The paper's table 6: the full and the depth-pruned model with weights of 4 bits."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Any

from effir_integrations import load
from effir_integrations.encoder.encoder import transformer_model

from .clock import Clock
from .inputs import DEPTH, FULL, LIMIT, Cut, Setting, make_encoder, write_bare
from .meters import figure, free, in_use, least_cosine, time_in_turns
from .results import Results, Section
from .table import KINDS, cosine, peak, shown_times, speed, times

CUTS = (DEPTH, FULL)
"""The smaller first, should time or disk run out."""
PAPER = {FULL: "14.0 to 4.3 GB", DEPTH: "8.7 to 3.0 GB"}


def run(setting: Setting, results: Results, clock: Clock) -> None:
    """Encode in bf16, write, load in 4 bits, and compare; one model in memory at a time."""
    for wanted, present in (
        ("a CUDA device", setting.device.startswith("cuda")),
        ("bitsandbytes", find_spec("bitsandbytes") is not None),
    ):
        if not present:
            results.note(f"Not run: nf4 needs {wanted}, which is not here.")
            return
    for cut in CUTS:
        compare(setting, results, cut)


def compare(setting: Setting, results: Results, cut: Cut) -> None:
    """Add the rows of one model: bf16, and 4 bits."""
    folder = setting.work / "nf4"
    encoder = make_encoder(setting, setting.shape, cut)
    vectors, plain = _measure(encoder, setting, None)
    results.add(model=cut.name, precision="bf16", paper="", times_bf16=None, **plain)
    try:
        write_bare(setting.shape, transformer_model(encoder), folder)
        del encoder
        free()
        narrow = load(folder, device=setting.device, precision="nf4", max_length=LIMIT)
        _, kinds = _measure(narrow, setting, vectors)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratios = {kind: times(plain, kinds, kind) for kind in KINDS}
    results.add(model=cut.name, precision="nf4", paper=PAPER[cut], times_bf16=ratios, **kinds)
    for kind in KINDS:
        what = f"cosine of nf4 with bf16, {kind}, {cut.name}"
        # four bits are coarse, and no model of random weights is used to them: NaN alone is wrong
        results.check(what, kinds[kind]["cosine"], least=-1.0)
    del narrow
    free()


def _measure(
    encoder: Any, setting: Setting, expected: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return vectors, and what is shown of a row: memory, times, cosines to `expected`."""
    found: dict[str, Any] = {"resident": in_use(setting.device)}
    vectors = {}
    for kind, texts in setting.texts.items():
        run = _run(encoder, texts)
        vectors[kind] = run()
        found[kind] = {
            "texts": len(texts),
            **time_in_turns({kind: run}, setting.rounds, setting.device)[kind],
            "cosine": least_cosine(vectors[kind], (expected or vectors)[kind]),
        }
    return vectors, found


def _run(encoder: Any, texts: Any) -> Any:
    return lambda: encoder.encode(list(texts))


SECTION = Section(
    name="nf4",
    title="NF4",
    text='`load(..., precision="nf4")` (bitsandbytes) against bf16, `Encoder` alone, not '
    "compiled. Cosines are of random weights, which are not what trained ones are.",
    columns={
        "model": lambda row: row["model"],
        "precision": lambda row: row["precision"],
        "weights, GB": lambda row: figure(row["resident"]),
        "peak, GB": peak,
        "queries/s": speed("queries"),
        "times bf16": shown_times("times_bf16", "queries"),
        "documents/s": speed("documents"),
        "times bf16 ": shown_times("times_bf16", "documents"),
        "least cosine to bf16": cosine,
        "the paper": lambda row: row["paper"],
    },
    run=run,
    seconds=150,
)
