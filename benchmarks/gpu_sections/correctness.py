"""Whether vectors on this device are those of the stock class, of a CPU, of a saved model."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from effir_integrations import BaseIdentity, Encoder, export, load
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.apply import apply
from effir_integrations.model.hooks import masked

from .clock import Clock
from .inputs import DEPTH, MAIN, Cut, Setting, make_texts, random_model, write_bare
from .meters import largest_difference, least_cosine
from .results import Results, Section

FP32 = 1e-3
"""Largest difference of two fp32 vectors, relative to their length."""
TEXTS = 24
BF16 = 0.99
"""Least cosine of two vectors of which one is made in bf16."""


def run(setting: Setting, results: Results, clock: Clock) -> None:
    """Check small models on the device, in fp32 and in bf16."""
    folder = setting.work / "small"
    shutil.rmtree(folder, ignore_errors=True)
    write_bare(setting.small, random_model(setting.small, "cpu", torch.float32), folder)
    texts = make_texts(TEXTS, 4, setting.longest, vocabulary=setting.small.vocabulary, seed=3)
    _against_stock(setting, results, str(folder), texts)
    for precision in ("fp32", "bf16"):
        _surgery(setting, results, str(folder), texts, precision)


def _against_stock(setting: Setting, results: Results, folder: str, texts: list[str]) -> None:
    ours = {
        precision: load(folder, device=setting.device, precision=precision)
        for precision in ("fp32", "bf16")
    }
    vectors = {precision: encoder.encode(texts) for precision, encoder in ours.items()}
    # a version of the stock class that does not call what Encoder overrides would be timed as ours
    tokens = min(encoder.tokens_encoded for encoder in ours.values())
    results.check("tokens that Encoder ran on its own path", tokens, least=len(texts))
    stock = {
        precision: SentenceTransformer(modules=list(encoder), device=setting.device).encode(texts)
        for precision, encoder in ours.items()
    }
    on_cpu = load(folder, device="cpu", precision="fp32").encode(texts)
    name = "Encoder against SentenceTransformer"
    _compare(results, f"{name}, fp32", vectors["fp32"], stock["fp32"], most=FP32)
    _compare(results, "Encoder, fp32, against a CPU", vectors["fp32"], on_cpu, most=FP32)
    _compare(results, f"{name}, bf16", vectors["bf16"], stock["bf16"])
    _compare(results, "Encoder, bf16 against fp32", vectors["bf16"], stock["fp32"])


def _surgery(
    setting: Setting, results: Results, folder: str, texts: list[str], precision: str
) -> None:
    exact: dict[str, Any] = {"most": 0.0}
    rounded: dict[str, Any] = {"most": FP32} if precision == "fp32" else {}

    def loaded() -> Encoder:
        return load(folder, device=setting.device, dtype=precision)

    zeroed, dropped = loaded(), loaded()
    plan = DEPTH.plan(BaseIdentity.of(transformer_model(dropped)))
    model: Any = transformer_model(zeroed)
    with torch.no_grad():
        for layer in plan.drop_mlp:
            model.layers[layer].mlp.down_proj.weight.zero_()
    _put(dropped, DEPTH)
    name = f"MLPs dropped against output projections of zero, {precision}"
    _compare(results, name, _forward(dropped, texts), _forward(zeroed, texts), **exact)

    hidden, sliced = loaded(), loaded()
    plan = MAIN.plan(BaseIdentity.of(transformer_model(hidden)))
    with masked(transformer_model(hidden), plan):
        expected = _forward(hidden, texts)
    saved = setting.work / f"small-pruned-{precision}"
    reloaded = export(sliced, plan, saved, force=True)
    name = f"neurons sliced against masked, {precision}"
    _compare(results, name, _forward(sliced, texts), expected, **rounded)
    name = f"saved and loaded again, {precision}"
    _compare(results, name, reloaded.encode(texts), sliced.encode(texts), **exact)


def _put(encoder: Any, cut: Cut) -> None:
    model = transformer_model(encoder)
    encoder[0].model = apply(model, cut.plan(BaseIdentity.of(model)))


def _forward(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Return vectors by one plain forward pass, so that shapes are the same for all."""
    with torch.inference_mode():
        features = encoder.preprocess(texts)
        inputs = {name: x.to(encoder.device) for name, x in features.items() if torch.is_tensor(x)}
        return encoder(inputs)["sentence_embedding"].float().cpu().numpy()


def _compare(
    results: Results, what: str, vectors: Any, expected: Any, *, most: float | None = None
) -> None:
    """Compare vectors by their difference, or, with no most of it, by their cosine."""
    found = largest_difference(vectors, expected), least_cosine(vectors, expected)
    measured, allowed = found[1], f"cosine >= {BF16}"
    if most is not None:
        measured, allowed = found[0], f"<= {most:g}"
    holds = measured >= BF16 if most is None else measured <= most
    results.add(
        check=what, difference=found[0], cosine=found[1], allowed=allowed, holds=bool(holds)
    )
    results.check(what, measured, most=most, least=BF16)


SECTION = Section(
    name="correctness",
    title="Are the vectors right?",
    text=f"A small random Mistral, {TEXTS} texts of several lengths, TF32 off. Differences are "
    "relative to the length of a vector.",
    columns={
        "check": lambda row: row["check"],
        "largest difference": lambda row: f"{row['difference']:.1e}",
        "least cosine": lambda row: f"{row['cosine']:.6f}",
        "allowed": lambda row: row["allowed"],
        "holds": lambda row: "yes" if row["holds"] else "NO",
    },
    run=run,
    seconds=60,
)
