"""The README of a converted model."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from ..model.cards import USAGE, keep_metadata
from .written import Written

_CARD = """---
pipeline_tag: sentence-similarity
tags:
- sentence-similarity
- feature-extraction
{tags}---

# {title}

The model of `{title}` as {file} ({dtype} weights), written by
[effir-integrations](https://pypi.org/project/effir-integrations/) {version}.
{inside} {check}

| | |
|---|---|
| dimension | {dimension} |
| tokens a text is cut to | {limit} |

{prompts}

{usage_title}

`FOLDER` is this folder.

{usage}"""


def converted_card(
    written: Written,
    *,
    name: str,
    dtype: str,
    dimension: int | None,
    limit: int,
    prompts: dict[str, str],
    base_card: str | None,
) -> str:
    """Return the text of the card.

    Args:
        written: What the format's writer handed back.
        name: Of the model that was converted.
        dtype: Of the weights.
        dimension: Of a vector.
        limit: Tokens a text is cut to.
        prompts: Name -> text.
        base_card: The card of that model, whose licence and language are kept.
    """
    card = _CARD.format(
        tags="".join(f"- {tag}\n" for tag in written.tags),
        title=Path(name).name or name,
        file=f"`{written.file}`",
        dtype=dtype,
        version=version("effir-integrations"),
        inside=written.inside,
        check=_check(written),
        dimension=dimension,
        limit=limit,
        prompts=_prompts(prompts),
        usage_title=USAGE,
        usage=written.usage,
    )
    return keep_metadata(card, base_card)


def _check(written: Written) -> str:
    if written.cosine is None:
        return f"Its vectors were not compared with those of the model ({written.unchecked})."
    return f"Its vectors have a cosine of at least {written.cosine:.6f} to those of the model."


def _prompts(prompts: dict[str, str]) -> str:
    rows = [f"| {name} | `{text!r}` |" for name, text in prompts.items() if text]
    if not rows:
        return "It was trained without prompts: texts go in as they are."
    return "\n".join(["| prompt | goes in front of the text |", "|---|---|", *rows])
