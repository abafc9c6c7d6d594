"""Make Pyserini importable where it is not, and make our encoders known to it by name."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ...extras import import_extra
from .encoders import EffirDocumentEncoder, EffirQueryEncoder
from .java import start_java

logger = logging.getLogger(__name__)

NAME = "effir"
"""Value of `--encoder-class`."""
_TABLES = "pyserini.prebuilt_index_info"


def register(name: str = NAME) -> None:
    """Add the encoders to Pyserini's tables of classes, which starts the JVM; twice is once.

    They come first, so that Pyserini, which guesses the class by words in the path of a model,
    guesses them for a path that holds `name`.

    Raises:
        ImportError: Pyserini is not installed, or there is no Java that is recent enough.
    """
    module = import_encoders()
    for table, encoder in (
        (module.document_encoder_class_map, EffirDocumentEncoder),
        (module.query_encoder_class_map, EffirQueryEncoder),
    ):
        others = {key: value for key, value in table.items() if key != name}
        table.clear()
        table.update({name: encoder, **others})


def import_encoders() -> Any:
    """Return `pyserini.encode`, imported even without network and without an OpenAI key.

    Raises:
        ImportError: Pyserini is not installed, or there is no Java that is recent enough.
    """
    start_pyserini()
    with _placeholder_key():
        return importlib.import_module("pyserini.encode")


def start_pyserini() -> None:
    """Start the JVM, and see to it that the other modules of Pyserini can be imported.

    Raises:
        ImportError: Pyserini is not installed, or there is no Java that is recent enough.
    """
    import_extra("pyserini", "pyserini")
    start_java()
    if _TABLES in sys.modules:
        return
    try:
        importlib.import_module(_TABLES)
    # 2.4 downloads tables of prebuilt indexes on import, which no other index needs
    except OSError as error:
        logger.warning(
            "the names of prebuilt indexes are not available (%s); indexes in folders are", error
        )
        sys.modules[_TABLES] = _EmptyTables(_TABLES)


class _EmptyTables(ModuleType):
    """Stands for the tables of prebuilt indexes, whatever their names."""

    def __getattr__(self, name: str) -> dict[str, Any]:
        if not name.isupper():
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return {}


@contextmanager
def _placeholder_key() -> Iterator[None]:
    # before 2.1 importing Pyserini makes an OpenAI client, which refuses to be made without a key
    missing = not os.environ.get("OPENAI_API_KEY")
    before = os.environ.get("OPENAI_API_KEY")
    if missing:
        os.environ["OPENAI_API_KEY"] = "unused"
    try:
        yield
    finally:
        if missing:
            os.environ.pop("OPENAI_API_KEY")
            if before is not None:
                os.environ["OPENAI_API_KEY"] = before
