"""Read the texts that people hand over, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_ONE = str | bytes | Mapping


def listed(inputs: Any) -> Any:
    """Return texts as a list in their order; what is one input is handed back as it is.

    Anything with an order will do: pandas, Arrow and `datasets` columns, numpy arrays, views of
    dicts, tuples. One input is a string, a dict, bytes or a number; who encodes says what it takes.

    Raises:
        ValueError: There is nothing, no order, a whole table, or what can be read only once.
    """
    if isinstance(inputs, Iterator):
        raise ValueError(
            f"a {type(inputs).__name__} is read only once, so nothing would say which text a "
            "vector is of; give list(texts), or read it in windows by Encoder.encode_stream(texts)"
        )
    _check_ordered(inputs)
    if isinstance(inputs, _ONE | list) or not hasattr(inputs, "__iter__"):
        return inputs
    found = _values(inputs)
    return found if isinstance(found, str | list) else list(found)


def streamed(inputs: Any) -> Iterable[Any]:
    """Return what yields Python's values in an order; it may be read once, and is not read yet.

    Raises:
        ValueError: There is nothing, one input, no order, or a whole table.
    """
    _check_ordered(inputs)
    found = _values(inputs)
    if isinstance(found, _ONE) or not isinstance(found, Iterable):
        raise ValueError(f"{inputs!r:.60} is one {type(inputs).__name__}; give a list of inputs")
    return found


def _values(inputs: Any) -> Any:
    """Return Python's own values of an array or a column; anything else as it is."""
    for name in ("to_pylist", "tolist", "to_list"):
        if hasattr(inputs, name):
            return getattr(inputs, name)()
    return inputs


def _check_ordered(inputs: Any) -> None:
    if inputs is None:
        raise ValueError("there is nothing to encode: inputs is None; give a string or a list")
    if isinstance(inputs, set | frozenset):
        raise ValueError(
            f"a {type(inputs).__name__} of {len(inputs)} has no order that vectors could follow; "
            "give sorted(texts), or list(texts) and keep it"
        )
    columns = getattr(inputs, "column_names", getattr(inputs, "columns", None))
    if columns is not None:
        raise ValueError(
            f"{type(inputs).__name__} is a table with the columns {list(columns)}; give the one "
            "that holds the texts"
        )
