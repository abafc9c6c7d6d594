"""Read the texts that people hand over, whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def listed(inputs: Any) -> Any:
    """Return texts as a list in their order; what is one input is handed back as it is.

    Anything with an order will do: pandas, Arrow and `datasets` columns, numpy arrays, views of
    dicts, tuples. One input is a string, a dict, bytes or a number; who encodes says what it takes.

    Raises:
        ValueError: There is nothing, no order, a whole table, or what can be read only once.
    """
    if inputs is None:
        raise ValueError("there is nothing to encode: inputs is None; give a string or a list")
    if isinstance(inputs, set | frozenset):
        raise ValueError(
            f"a {type(inputs).__name__} of {len(inputs)} has no order that vectors could follow; "
            "give sorted(texts), or list(texts) and keep it"
        )
    if isinstance(inputs, Iterator):
        raise ValueError(
            f"a {type(inputs).__name__} is read only once, so nothing would say which text a "
            "vector is of; give list(texts), or read it in windows by Encoder.encode_stream(texts)"
        )
    columns = getattr(inputs, "column_names", getattr(inputs, "columns", None))
    if columns is not None:
        raise ValueError(
            f"{type(inputs).__name__} is a table with the columns {list(columns)}; give the one "
            "that holds the texts"
        )
    if isinstance(inputs, str | bytes | Mapping | list) or not hasattr(inputs, "__iter__"):
        return inputs
    for name in ("to_pylist", "tolist", "to_list"):
        if hasattr(inputs, name):
            return getattr(inputs, name)()
    return list(inputs)
