"""Check what a dataclass holds against its annotations: settings, and what files hold."""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    type(None): "nothing",
}


def check_fields(instance: Any) -> None:
    """Refuse values that the annotations of a dataclass do not allow; for its `__post_init__`.

    Floats must be finite, integers are no booleans. A list becomes the tuple that is asked for, a
    mapping the dataclass, a number of NumPy one of Python's.

    Raises:
        ValueError: Names the field, its value, and what is allowed.
    """
    declared: Any = type(instance)
    for name, hint in _hints(declared).items():
        value = getattr(instance, name)
        fitted = _fit(value, hint, name)
        if fitted is not value:
            object.__setattr__(instance, name, fitted)


def from_mapping(cls: type[T], content: Mapping[str, Any]) -> T:
    """Make a dataclass that checks its fields of what a file holds.

    Raises:
        ValueError: A field is missing, unknown or of another type.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{content!r} is no object with fields; make the file again")
    declared: Any = cls
    known = {field.name: field for field in fields(declared) if field.init}
    if unknown := sorted(set(content) - known.keys(), key=str):
        raise ValueError(f"unknown field {unknown[0]!r}; choose from {', '.join(sorted(known))}")
    for name, field in known.items():
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if name not in content and not optional:
            raise ValueError(f"lacks the field {name!r}; make the file again")
    return cls(**content)


@contextmanager
def blamed_on(place: Path | str) -> Iterator[None]:
    """Name a file or a field in front of what is wrong with its content.

    Raises:
        ValueError: As the block, with the place.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@lru_cache(maxsize=64)
def _hints(cls: Any) -> dict[str, Any]:
    hints, declared = get_type_hints(cls), {field.name for field in fields(cls)}
    return {name: hint for name, hint in hints.items() if name in declared}


def _fit(value: Any, hint: Any, name: str) -> Any:
    """Return a value as its annotation asks for it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _fit(value, _branch(value, arguments), name)
    if origin is tuple and isinstance(value, (list, tuple)):
        parts = tuple(_fit(part, arguments[0], f"{name}[{i}]") for i, part in enumerate(value))
        same = isinstance(value, tuple) and all(map(operator.is_, value, parts))
        return value if same else parts
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        for key, part in value.items():
            _fit(key, arguments[0], f"a key of {name}")
            _fit(part, arguments[1], f"{name}[{key!r}]")
        return value
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        with blamed_on(name):
            return from_mapping(hint, value)
    return _fit_one(value, hint, name)


def _branch(value: Any, choices: tuple[Any, ...]) -> Any:
    """Return the branch of a union that a value is checked by: None and lists have their own."""
    wanted = [choice for choice in choices if (choice is type(None)) == (value is None)]
    if isinstance(value, (list, tuple)):
        wanted = [choice for choice in wanted if get_origin(choice) is tuple] or wanted
    return wanted[0] if wanted else choices[0]


def _fit_one(value: Any, hint: Any, name: str) -> Any:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if hint is Any:
        return value
    if hint is int and number and isinstance(value, Integral):
        return value if type(value) is int else int(value)
    if hint is float and number and math.isfinite(value):
        return value if type(value) in (int, float) else float(value)
    if isinstance(hint, type) and hint not in (int, float) and isinstance(value, hint):
        return value
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "..."
    raise ValueError(f"{name}={shown} is not allowed; give {_described(hint)}")


def _described(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"a list, each part {_described(get_args(hint)[0])}"
    if get_origin(hint) is not None or is_dataclass(hint):
        return "an object with fields"
    return _NAMES.get(hint) or f"a {getattr(hint, '__name__', hint)}"
