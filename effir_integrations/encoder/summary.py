"""What an encoder is, as a table that a notebook shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.modules import Pooling

from ..html_table import html_rows
from ..model.modeling import HISTORY_FILE
from .space_record import space_in
from .tokenization import token_limit

_PROMPT = 100
"""Characters of a prompt that are shown."""


def encoder_html(encoder: Any) -> str:
    """Return a table of what an encoder is, with a column for each of the two of a pair.

    Args:
        encoder: A `SentenceTransformer`.
    """
    tasks = ("query", "document") if hasattr(encoder, "towers") else ()
    facts = [_facts(encoder.tower(task)) for task in tasks] or [_facts(encoder)]
    names = list(dict.fromkeys(name for each in facts for name in each))
    return html_rows(
        [(name, *(each.get(name, "") for each in facts)) for name in names],
        headings=("", *tasks) if tasks else (),
        title=type(encoder).__name__,
    )


def _facts(encoder: Any) -> dict[str, str]:
    config = getattr(encoder.transformers_model, "config", None)
    name = getattr(config, "name_or_path", "")
    limit, parameters = token_limit(encoder), list(encoder.parameters())
    facts = {
        "model": Path(name).name,
        "type": getattr(config, "model_type", type(encoder[0]).__name__),
        "parameters": f"{sum(x.numel() for x in parameters):,}",
        "dimension": str(encoder.get_embedding_dimension() or ""),
        "pooling": ", then ".join(_after_tokens(encoder)),
        "prompts": ", ".join(_prompts(encoder)) or "none",
        "similarity": str(encoder.similarity_fn_name),
        "max length": "no limit" if limit is None else f"{limit:,} tokens",
        "dtype": ", ".join(dict.fromkeys(map(_held_as, parameters))),
        "device": str(encoder.device),
        "space": _space(name),
    }
    return {key: value for key, value in facts.items() if value}


def _held_as(weight: Any) -> str:
    if hasattr(weight, "__tensor_flatten__"):  # quantised, whatever dtype it passes for
        return type(weight).__name__
    return str(weight.dtype).removeprefix("torch.")


def _after_tokens(encoder: Any) -> list[str]:
    """Say what makes one vector of those of the tokens."""
    said = []
    for module in list(encoder)[1:]:
        mode: Any = getattr(module, "pooling_mode", None) if isinstance(module, Pooling) else None
        modes = (mode,) if isinstance(mode, str) else mode
        said.append(" and ".join(modes) if modes else type(module).__name__)
    return said


def _prompts(encoder: Any) -> list[str]:
    said = []
    for name, text in encoder.prompts.items():
        default = " (default)" if name == encoder.default_prompt_name else ""
        if text:
            said.append(f"{name}{default}: {_cut(text)!r}")
    return said


def _cut(text: str) -> str:
    return text if len(text) <= _PROMPT else f"{text[:_PROMPT]}…"


def _space(name: str) -> str:
    """Say whose documents queries can search beside its own, where its folder does."""
    space = space_in(Path(name) / HISTORY_FILE)
    return "" if space is None else f"that of {Path(space.name).name}"
