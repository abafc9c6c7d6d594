"""The options of a verb, made of the settings of its stage: one default, one text, in one place."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

CONFIG = "config"
"""The parameter of a verb that its settings take the place of."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the fields of a dataclass become options."""

    config: type
    """The dataclass."""
    left_out: Mapping[str, str]
    """Fields that have no option, and why."""
    names: Mapping[str, str]
    """Fields whose option has another name."""
    parsers: Mapping[str, Callable[[str], Any]]
    """Fields that are read from a text by a function."""

    def parameters(self) -> list[inspect.Parameter]:
        """Return one keyword for every field, with the type and the option that typer reads."""
        hints, texts = get_type_hints(self.config), field_texts(self.config)
        made = []
        for field in fields(self.config):
            if field.name in self.left_out:
                continue
            kind, default = hints[field.name], field.default
            option: dict[str, Any] = {"help": texts[field.name]}
            if field.name in self.parsers:
                kind, default = str | None, None
            flag = "--" + self.names.get(field.name, field.name).replace("_", "-")
            annotation = Annotated[kind, typer.Option(flag, **option)]  # type: ignore[valid-type]
            made.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=annotation,
                )
            )
        return made

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the dataclass of what was given; a text that was not has the field's default.

        Raises:
            ValueError: A parser or the dataclass refuses a value.
        """
        known = {x: value for x, value in values.items() if x not in self.parsers}
        texts = {x: value for x, value in values.items() if x in self.parsers and value is not None}
        return self.config(**known, **{x: self.parsers[x](text) for x, text in texts.items()})


def options_of(
    config: type,
    *,
    left_out: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    parsers: Mapping[str, Callable[[str], Any]] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb an option for every field of a dataclass, in place of its `config`.

    Args:
        config: A dataclass with a line of text under each field.
        left_out: Field -> why it has no option.
        names: Field -> name of its option, where that is another.
        parsers: Field -> what reads it from a text.
    """
    settings = Settings(
        config=config, left_out=left_out or {}, names=names or {}, parsers=parsers or {}
    )

    options = settings.parameters()

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def with_config(**values: Any) -> None:
            taken = {x.name: values.pop(x.name) for x in options}
            verb(**values, config=settings.read(taken))

        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(verb, eval_str=True).parameters.items():
            parameters += options if name == CONFIG else [parameter]
        with_config.settings = settings  # type: ignore[attr-defined]
        return with_parameters(with_config, parameters)

    return decorate


def with_parameters(
    function: Callable[..., None], parameters: Iterable[inspect.Parameter]
) -> Callable[..., None]:
    """Let typer see these parameters of a function, as keywords."""
    own = [x.replace(kind=inspect.Parameter.KEYWORD_ONLY) for x in parameters]
    function.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    function.__annotations__ = {x.name: x.annotation for x in own}
    return function


def field_texts(config: type) -> dict[str, str]:
    """Return the line of text under each field of a dataclass; of the class that says it last."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if "__dataclass_fields__" not in vars(cls):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for node, following in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    found[node.target.id] = " ".join(str(following.value.value).split())
    return found
