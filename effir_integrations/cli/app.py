"""The `effir` application that the verbs register with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from ..errors import EXIT_CODES, plain_errors
from .options import Debug
from .settings import with_parameters

app = typer.Typer(
    name="effir",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=(
        "Make embedding models smaller and faster, as ordinary Sentence Transformers folders.\n\n"
        "The short way: effir compress MODEL OUT, then effir compare MODEL OUT --data FOLDER.\n\n"
        "Step by step: effir analyze MODEL --out run; effir drop run --mlp 4; effir reconstruct "
        "run --keep-neurons 0.5; effir export run OUT.\n\n"
        "With training: effir mine MODEL mined.jsonl --data DATA; effir slim run --train "
        "mined.jsonl; effir finetune OUT HEALED --train mined.jsonl, or, without labels, effir "
        "distill OUT HEALED --texts corpus.jsonl.\n\n" + EXIT_CODES
    ),
)


def verb(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb, and give it `--debug`, without which an error is one plain line."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*, debug: bool, **values: Any) -> None:
            with plain_errors(debug):
                function(**values)

        own = inspect.signature(function, eval_str=True).parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        option = inspect.Parameter("debug", kind, default=False, annotation=Debug)
        return app.command(name=name)(with_parameters(run, [*own, option]))

    return register
