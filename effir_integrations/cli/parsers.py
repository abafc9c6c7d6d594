"""Read layers and counts as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def parse_layers(text: str) -> tuple[int, ...]:
    """Return the layers that `3,5-8` names.

    Raises:
        ValueError: It is no such list.
    """
    layers: list[int] = []
    for part in filter(None, re.split(r"[,\s]+", text.strip())):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise ValueError(f"layers {text!r} are no list such as 3,5-8; {part!r} will not do")
        first, last = int(match[1]), int(match[2] or match[1])
        layers.extend(range(first, last + 1))
    return tuple(layers)


def parse_count(text: str) -> int | None:
    """Return the number that `3.6B` or `120M` names, or None for an empty text.

    Raises:
        ValueError: It is no such number.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.strip().upper())
    if match is None:
        raise ValueError(f"{text!r} is no number of parameters; write 3.6B, 120M or 22000000")
    return round(float(match[1]) * _UNITS[match[2]])
