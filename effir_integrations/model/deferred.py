"""A class that is made when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class _Deferred(type):
    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.load(), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.load()(*args, **kwargs)


def deferred(name: str, load: Callable[[], type], **known: Any) -> Any:
    """Return what behaves as the class that `load` returns, and calls it on first use.

    Args:
        name: Of the class.
        load: Makes or finds it.
        known: Attributes that are answered without it.
    """
    return _Deferred(name, (), {**known, "load": staticmethod(load)})
