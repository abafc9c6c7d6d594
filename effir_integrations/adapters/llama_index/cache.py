"""A LlamaIndex key-value store, of which one kind of vectors sees its own entries only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from llama_index.core.storage.kvstore.types import BaseKVStore

if TYPE_CHECKING:
    from ...encoder.search_vectors import Role

DATA = "data"
"""The collection that key-value stores of LlamaIndex use where none is named."""
_kind: ContextVar[Role] = ContextVar("effir_kind", default="document")


@contextmanager
def cached_as(kind: Role) -> Iterator[None]:
    """Let the caches of this thread or task hold vectors of `kind`: of documents, unless said."""
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


class ScopedCache(BaseKVStore):
    """A view on a store that other models, settings and roles have no part in.

    LlamaIndex finds a vector by its text alone, so each of them gets a collection of its own.

    Args:
        store: Whose entries these are; it may serve other embeddings as well.
        scopes: What tells vectors of each kind from all others.
    """

    def __init__(self, store: BaseKVStore, scopes: Mapping[Role, str]) -> None:
        self.store, self.scopes = store, scopes

    def _own(self, collection: str) -> str:
        kind = _kind.get()
        return f"{collection}-{kind}-{self.scopes[kind]}"

    def put(self, key: str, val: dict[str, Any], collection: str = DATA) -> None:
        """Store a value."""
        self.store.put(key, val, collection=self._own(collection))

    async def aput(self, key: str, val: dict[str, Any], collection: str = DATA) -> None:
        """Store a value."""
        await self.store.aput(key, val, collection=self._own(collection))

    def get(self, key: str, collection: str = DATA) -> dict[str, Any] | None:
        """Return a value, or None."""
        return self.store.get(key, collection=self._own(collection))

    async def aget(self, key: str, collection: str = DATA) -> dict[str, Any] | None:
        """Return a value, or None."""
        return await self.store.aget(key, collection=self._own(collection))

    def get_all(self, collection: str = DATA) -> dict[str, dict[str, Any]]:
        """Return all values of the present kind."""
        return self.store.get_all(collection=self._own(collection))

    async def aget_all(self, collection: str = DATA) -> dict[str, dict[str, Any]]:
        """Return all values of the present kind."""
        return await self.store.aget_all(collection=self._own(collection))

    def delete(self, key: str, collection: str = DATA) -> bool:
        """Delete a value; say whether there was one."""
        return self.store.delete(key, collection=self._own(collection))

    async def adelete(self, key: str, collection: str = DATA) -> bool:
        """Delete a value; say whether there was one."""
        return await self.store.adelete(key, collection=self._own(collection))
