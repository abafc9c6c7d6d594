"""The README of an exported model: what was removed, from what, and code that works."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..artifacts import PruningPlan

_CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- effir
- pruning
{base_model}---

# {title}

A pruned copy of `{base}`, made by
[effir-integrations](https://pypi.org/project/effir-integrations/) {version}: MLP sublayers or their
neurons were removed, everything else (pooling, prompts, normalisation, length) is the base's.

| | base | this model |
|---|---|---|
| parameters (without LM head) | {before:,} | {after:,} ({share:.1%}) |
| layers with an MLP | {mlps_before} | {mlps} |
| layers with attention | {attentions_before} | {attentions} |
| MLP neurons in all | {neurons_before:,} | {neurons:,} |

| layer | attention | MLP width before | MLP width |
|---|---|---|---|
{rows}

## How to use it

```python
import effir_integrations  # registers the model type; pip install effir-integrations
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/or/name/of/this/model")
vectors = model.encode(["a query", "a document"])
```

Without the package, add `trust_remote_code=True`: that runs the modelling file in this folder and
gives the same vectors. Without either, loading is refused: the weights fit no stock class.

## How it was made

{stages}
"""


def write_model_card(folder: Path, plan: PruningPlan) -> None:
    """Write `README.md` for an exported plan into a model folder."""
    (folder / "README.md").write_text(model_card(plan), encoding="utf-8")


def model_card(plan: PruningPlan) -> str:
    """Return the text of the model card, in Markdown with the hub's metadata on top."""
    base = plan.base
    widths = plan.mlp_widths
    no_attention = {*base.dropped_attention, *plan.drop_attention}
    rows = [
        f"| {layer} | {'dropped' if layer in no_attention else 'kept'} | {before:,} | "
        f"{f'{after:,}' if after else 'dropped'} |"
        for layer, (before, after) in enumerate(zip(base.mlp_widths, widths, strict=True))
    ]
    is_hub_name = not Path(base.name).exists() and base.name.count("/") == 1
    title = Path(base.name).name or base.name
    return _CARD.format(
        base_model=f"base_model: {base.name}\n" if is_hub_name else "",
        title=f"{title}, pruned",
        base=base.name if is_hub_name else title,
        version=plan.versions.get("effir-integrations", ""),
        before=base.parameters,
        after=plan.parameters,
        share=plan.parameters / base.parameters,
        mlps_before=sum(width > 0 for width in base.mlp_widths),
        mlps=sum(width > 0 for width in widths),
        attentions_before=base.layers - len(base.dropped_attention),
        attentions=base.layers - len(no_attention),
        neurons_before=sum(base.mlp_widths),
        neurons=sum(widths),
        rows="\n".join(rows),
        stages="\n".join(_stage(entry) for entry in plan.made_by) or "No stage is recorded.",
    )


def _stage(entry: Mapping[str, Any]) -> str:
    config = {key: value for key, value in entry.get("config", {}).items() if value}
    settings = ", ".join(f"{key} {value}" for key, value in config.items())
    calibration = entry.get("calibration") or {}
    source = calibration.get("source")
    texts = f" (calibration: {calibration.get('texts')} texts of {source})" if source else ""
    return f"* {entry.get('stage', 'unknown stage')}: {settings or 'default settings'}{texts}"
