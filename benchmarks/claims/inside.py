"""Claims 4, 5 and 7 of the claims: layers, the pooled token, and the space of the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from effir_integrations import Encoder
from effir_integrations.encoder.encoder import role_prompt, transformer_model
from effir_integrations.encoder.search_vectors import search_vectors
from effir_integrations.encoder.tokenization import cut_to
from effir_integrations.evaluation.plots import drop_order_heatmap, width_plot
from effir_integrations.model.plan import ImportanceReport

from .checks import drop_order, isotropy, pooling
from .lab import Lab
from .page import Section, markdown
from .plots import bars, levels, lines
from .quality import TUNED, sizes, tuned_counts
from .texts import content_hash, query_texts, triples
from .variants import FULL, Variant

KINDS = {"mlp": "MLP", "attention": "attention", "block": "block"}
POOLINGS = {"lasttoken": "last token", "mean": "mean"}
Losses = dict[tuple[str, int, str], float]
"""Data set, attentions dropped, pooling -> share of nDCG@10 that is lost."""
TRIPLES = 300
"""Queries whose way through the layers is followed."""


def claim_4(lab: Lab, images: Path) -> Section:
    """Compare drop orders, and look at the widths that two methods leave."""
    reports = {"retriever": lab.report(lab.model)}
    notes = []
    if lab.options.base is not None:
        reports["base"] = lab.report(Path(lab.options.base))
    else:
        notes.append("The base before its retrieval training was not given (`--base`).")
    drawn = [
        drop_order_heatmap(report, images / f"claim-4-order-{model}.png")
        for model, report in reports.items()
    ]
    _, slim, refit = sizes(lab)[0]
    plans = {"slim": lab.plan(slim), "reconstruct": lab.plan(refit)}
    drawn += [
        width_plot(plan, images / f"claim-4-widths-{method}.png") for method, plan in plans.items()
    ]
    orders = [
        [f"{model}, {name}", *map(str, report.order(kind))]
        for model, report in reports.items()
        for kind, name in KINDS.items()
    ]
    widths = [[method, *map(str, plan.mlp_widths)] for method, plan in plans.items()]
    layers = range(lab.layers)
    return Section(
        tables=[
            markdown(["dropped as number", *(str(layer + 1) for layer in layers)], orders),
            markdown([f"{slim.mlp} MLPs dropped, widths of layer", *map(str, layers)], widths),
        ],
        images=drawn,
        questions=drop_order(
            {model: _scores(report) for model, report in reports.items()},
            {method: plan.mlp_widths for method, plan in plans.items()},
        ),
        notes=notes,
    )


def _scores(report: ImportanceReport) -> dict[str, list[float]]:
    return {name: [score or 0.0 for score in getattr(report, kind)] for kind, name in KINDS.items()}


def claim_5(lab: Lab, images: Path) -> Section:
    """Compare what two poolings lose with attention, and follow texts through the layers."""
    if not lab.causal:
        return Section(
            tables=[],
            images=[],
            questions=[],
            notes=[
                f"{lab.name} is an encoder: its last token sees no more than the others, so the "
                "question is not asked."
            ],
        )
    counts = tuned_counts(lab)
    losses, table = pooling_losses(lab, counts)
    followed = {"full": FULL}
    for count in counts:
        followed[f"{count} attentions"] = Variant(attention=count)
        followed[f"{count} MLPs"] = Variant(mlp=count)
    cosines = {name: layer_cosines(lab, variant) for name, variant in followed.items()}
    drawn = [
        bars(_loss_panels(losses, counts), images / "claim-5-pooling.png", up="nDCG@10 lost"),
        lines(
            _cosine_panels(cosines),
            images / "claim-5-layers.png",
            across="layers passed",
            up="cosine to the query",
        ),
    ]
    gaps = {name: found["positive"][-1] - found["negative"][-1] for name, found in cosines.items()}
    return Section(
        tables=[table, _gap_table(cosines)],
        images=drawn,
        questions=pooling(losses, gaps),
        notes=[
            f"The model's own pooling is that of the {POOLINGS.get(lab.pooling, lab.pooling)}. "
            "The other takes the same weights without training, so each loss is a share of what "
            f"that pooling has in the full model. Cosines are means over up to {TRIPLES} test "
            f"queries of {lab.scifact.name}, of what is pooled behind each layer; the negative is "
            "relevant to another query.",
        ],
    )


def pooling_losses(lab: Lab, counts: Sequence[int]) -> tuple[Losses, str]:
    """Return what two poolings lose with attentions, and the table of it."""
    losses, rows = {}, []
    for data in (each.name for each in lab.sets):
        for kind in POOLINGS:
            pool = "own" if kind == lab.pooling else kind
            full = lab.quality(FULL, data, pooling=pool).ndcg
            cells = [f"{data}, {POOLINGS[kind]}", f"{full:.4f}"]
            for count in counts:
                found = lab.quality(Variant(attention=count), data, pooling=pool).ndcg
                losses[data, count, kind] = 1 - found / full if full else 0.0
                cells.append(f"{found:.4f} ({-losses[data, count, kind]:+.1%})")
            rows.append(cells)
    columns = ["pooling", "full", *(f"{count} attentions dropped" for count in counts)]
    return losses, markdown(columns, rows)


def _loss_panels(losses: Losses, counts: Sequence[int]) -> Any:
    return {
        data: {
            f"{count} attentions": {
                name: losses[data, count, kind] for kind, name in POOLINGS.items()
            }
            for count in counts
        }
        for data in dict.fromkeys(data for data, _, _ in losses)
    }


def _cosine_panels(cosines: dict[str, dict[str, list[float]]]) -> Any:
    return {
        f"to the {role}": {name: list(enumerate(found[role])) for name, found in cosines.items()}
        for role in ("positive", "negative")
    }


def _gap_table(cosines: dict[str, dict[str, list[float]]]) -> str:
    rows = [
        [name, *(f"{found[role][-1]:.3f}" for role in ("positive", "negative"))]
        + [f"{found['positive'][-1] - found['negative'][-1]:.3f}"]
        for name, found in cosines.items()
    ]
    columns = ["dropped", "cosine to the positive", "to the negative", "gap"]
    return markdown([f"{columns[0]}, behind the last layer", *columns[1:]], rows)


def layer_cosines(lab: Lab, variant: Variant) -> dict[str, list[float]]:
    """Return the mean cosine of queries to positives and negatives behind each layer."""
    chosen = triples(lab.scifact, TRIPLES)
    settings = {
        **lab.settings(variant),
        "texts": content_hash(chosen),
        "max_length": lab.options.max_length,
        "precision": lab.dtype,
    }

    def measure() -> dict[str, Any]:
        encoder = lab.load(lab.folder(variant), lab.dtype)
        query, positive, negative = (
            pooled_layers(encoder, texts, role, lab.options.max_length)
            for texts, role in zip(chosen, ("query", "document", "document"), strict=True)
        )
        similarity = torch.nn.functional.cosine_similarity
        return {
            name: similarity(query, found, dim=-1).mean(1).tolist()
            for name, found in (("positive", positive), ("negative", negative))
        }

    found: dict[str, list[float]] = lab.rows.row("layers", settings, measure)
    return found


def pooled_layers(
    encoder: Encoder, texts: Sequence[str], role: str, max_length: int | None
) -> torch.Tensor:
    """Return the model's pooling of what each layer gives, (layers + 1, texts, hidden), fp32.

    The first are the token embeddings, the last have passed the final norm.
    """
    model, pool = transformer_model(encoder), encoder[1]
    options = {"prompt": role_prompt(encoder, role), **cut_to(encoder, max_length)}
    made = []
    with torch.inference_mode():
        for start in range(0, len(texts), 32):
            batch = list(texts[start : start + 32])
            features = encoder.preprocess(batch, **options)
            inputs = {
                name: features[name].to(encoder.device) for name in ("input_ids", "attention_mask")
            }
            hidden = model(**inputs, output_hidden_states=True).hidden_states
            mask = inputs["attention_mask"]
            made.append(
                torch.stack(
                    [
                        pool({"token_embeddings": layer, "attention_mask": mask})[
                            "sentence_embedding"
                        ].float()
                        for layer in hidden
                    ]
                )
            )
    return torch.cat(made, dim=1)


def claim_7(lab: Lab, images: Path) -> Section:
    """Take the mean cosine of all pairs of queries."""
    half = lab.part(4)
    fine = replace(sizes(lab)[0][2], tuned=True)
    pruned = [Variant(mlp=half, tuned=True), fine]
    variants = [FULL, Variant(mlp=half), Variant(attention=half), TUNED, *pruned]
    texts = query_texts(lab.options, lab.docstrings)
    cosines = {variant: mean_cosine(lab, variant, texts) for variant in variants}
    named = {each.title: cosines[each] for each in variants}
    return Section(
        tables=[
            markdown(
                ["model", "mean cosine of two queries"],
                [[name, f"{cosine:.4f}"] for name, cosine in named.items()],
            )
        ],
        images=[levels(named, images / "claim-7.png", across="mean cosine of two queries")],
        questions=isotropy(cosines, TUNED, pruned),
        notes=[
            f"{len(texts):,} texts: train queries of {lab.scifact.name}, queries of "
            f"{lab.docstrings.name}, then sentences of documents."
        ],
    )


def mean_cosine(lab: Lab, variant: Variant, texts: Sequence[str]) -> float:
    """Return the mean cosine over all pairs of different queries."""
    settings = {**lab.settings(variant), "texts": content_hash(texts), "precision": lab.dtype}

    def measure() -> dict[str, Any]:
        encoder = lab.load(lab.folder(variant), lab.dtype)
        vectors = search_vectors(encoder, texts, kind="query").astype("float64")
        vectors /= (vectors**2).sum(1, keepdims=True) ** 0.5
        count = len(vectors)
        # the square of the sum holds every pair twice, and each vector with itself
        return {"cosine": float(((vectors.sum(0) ** 2).sum() - count) / (count * (count - 1)))}

    return float(lab.rows.row("isotropy", settings, measure)["cosine"])
