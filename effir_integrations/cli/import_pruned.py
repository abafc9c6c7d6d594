"""The verb that takes over what other tools pruned: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import errors
from . import console
from .app import verb
from .options import Force, Json, Quiet


@verb("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder whose config.json has drop_mlp_list or drop_attn_list, as LLM-Drop and "
            "EffiR write them."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    adapter: Annotated[
        Path | None,
        typer.Option(help="LoRA adapter that was trained on it; merged. Needs [train]."),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="lasttoken, mean or cls. Default: the last token of a causal model."),
    ] = None,
    query_prompt: Annotated[
        str | None, typer.Option(help="Put in front of queries, such as 'query: '.")
    ] = None,
    document_prompt: Annotated[str | None, typer.Option(help="Put in front of documents.")] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Take over a model whose sublayers LLM-Drop or EffiR dropped, without running its code.

    effir import llama-drop8-mlp OUT --adapter effir-adapter --query-prompt "query: "
    """
    from ..encoder.history import HISTORY_FILE
    from ..files import read_json
    from ..pruning.import_pruned import import_pruned

    errors.quiet_libraries()
    given = {"query": query_prompt, "document": document_prompt}
    prompts = {name: text for name, text in given.items() if text is not None}
    import_pruned(
        source, out, adapter=adapter, pooling=pooling, prompts=prompts or None, force=force
    )
    history = read_json(out / HISTORY_FILE, "what `effir import` writes")
    gone = history["made_by"][0]["config"]
    line = (
        f"written to {out}: {history['parameters']:,} parameters, without the MLPs of layers "
        f"{gone['drop_mlp'] or 'none'} and the attentions of {gone['drop_attention'] or 'none'}"
    )
    console.show_line({"out": str(out), **history}, line, as_json, quiet)
