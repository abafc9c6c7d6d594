"""The README of an exported model: what was removed, from what, and code that works."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_json
from ..model.cards import EXAMPLE, IMPORT, OUR_TAG, STAGES, USAGE, keep_metadata
from ..model.families import is_stock

_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- {our_tag}
- pruning
{base_model}---

# {title}

Made from `{base}` by
[effir-integrations](https://pypi.org/project/effir-integrations/) {version}: {what}; everything
else (pooling, prompts, normalisation, length) is the base's.

| | base | this model |
|---|---|---|
| parameters (without LM head) | {before:,} | {after:,} ({share:.1%}) |
| layers with an MLP | {mlps_before} | {mlps} |
| layers with attention | {attentions_before} | {attentions} |
| MLP neurons in all | {neurons_before:,} | {neurons:,} |

| layer | attention | MLP width before | MLP width |
|---|---|---|---|
{rows}

{usage}

```python
{imports}from sentence_transformers import SentenceTransformer

# the folder of this model, or its name on the hub
model = SentenceTransformer("sentence_transformers_model_id")
{example}```

{loading}

{stages_title}

{stages}
"""

_LOADING = {
    False: "Without the package, add `trust_remote_code=True`: that runs the modelling file in this"
    " folder and\ngives the same vectors. Without either, loading is refused: the weights fit no "
    "stock class.",
    True: "This is a plain {family} model: whatever loads {family} models loads it, "
    "without this\npackage and without `trust_remote_code`.",
}


def write_model_card(
    folder: Path, history: Mapping[str, Any], base_card: str | None = None
) -> None:
    """Write `README.md` for a model with this history into its folder.

    Args:
        folder: Of the model.
        history: As of `history_of`.
        base_card: The card of the model it was made from; its licence and language are kept.
    """
    config = read_json(folder / "config.json", "the config of a model")
    stock = is_stock(config["model_type"])
    card = keep_metadata(model_card(history, stock=stock), base_card)
    (folder / "README.md").write_text(card, encoding="utf-8")


def model_card(history: Mapping[str, Any], *, stock: bool = False) -> str:
    """Return the text of the model card, in Markdown with the hub's metadata on top.

    Args:
        history: As of `history_of`.
        stock: Whether the model is of its family's own class, not of one of ours.
    """
    base, after, before = history["base"], history["mlp_widths"], history["mlp_widths_before"]
    gone_before = set(history.get("dropped_attention_before", ()))
    gone = gone_before | set(history["drop_attention"])
    rows = [
        f"| {layer} | {'dropped' if layer in gone else 'kept'} | {old:,} | "
        f"{f'{new:,}' if new else 'dropped'} |"
        for layer, (old, new) in enumerate(zip(before, after, strict=True))
    ]
    # only what came from the hub has a commit: a folder such as models/base looks like a name
    is_hub_name = bool(history.get("revision")) and base.count("/") <= 1
    title = Path(base).name or base
    smaller = history["parameters"] < history["parameters_before"]
    pruned = (before, gone) != (after, gone_before)
    return _CARD.format(
        our_tag=OUR_TAG,
        usage=USAGE,
        imports="" if stock else IMPORT,
        loading=_LOADING[stock].format(family=history["family"]),
        example=EXAMPLE,
        stages_title=STAGES,
        base_model=f"base_model: {base}\n" if is_hub_name else "",
        title=f"{title}, {'pruned' if smaller else 'trained'}",
        base=base if is_hub_name else title,
        version=history["versions"].get("effir-integrations", ""),
        what=" and ".join(_changes(history, pruned)),
        before=history["parameters_before"],
        after=history["parameters"],
        share=history["parameters"] / history["parameters_before"],
        mlps_before=sum(width > 0 for width in before),
        mlps=sum(width > 0 for width in after),
        attentions_before=len(before) - len(gone_before),
        attentions=len(before) - len(gone),
        neurons_before=sum(before),
        neurons=sum(after),
        rows="\n".join(rows),
        stages="\n".join(_stage(entry) for entry in history["made_by"]) or "No stage is recorded.",
    )


def _changes(history: Mapping[str, Any], pruned: bool) -> list[str]:
    stages = {entry.get("stage") for entry in history["made_by"]}
    changes = ["sublayers or MLP neurons were removed"] if pruned else []
    for entry in history["made_by"]:
        if entry.get("stage") == "trim":
            changes.append(
                f"{entry['tokens']:,} of {entry['tokens_before']:,} tokens of the vocabulary stay"
            )
    if stages & {"adapt", "finetune", "distill"}:
        changes.append("the weights were trained")
    if "import" in stages:
        changes.append("sublayers that its checkpoint lists as dropped are left out")
    if "map" in stages:
        changes.append("a linear map into another model's space was put at the end")
    return changes or ["nothing was removed"]


def _stage(entry: Mapping[str, Any]) -> str:
    config = {key: value for key, value in entry.get("config", {}).items() if value}
    settings = ", ".join(f"{key} {value}" for key, value in config.items())
    calibration, data = entry.get("calibration") or {}, entry.get("data") or {}
    read = ""
    if calibration.get("source"):
        read = f" (calibration: {calibration.get('texts')} texts of {calibration['source']})"
    elif data.get("source"):
        read = f" (training: {data.get('examples')} examples of {data['source']})"
    return f"* {entry.get('stage', 'unknown stage')}: {settings or 'default settings'}{read}"
