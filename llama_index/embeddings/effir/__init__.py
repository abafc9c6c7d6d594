"""The place where LlamaIndex's users look for an embedding."""

from __future__ import annotations

from effir_integrations.adapters.llama_index import EffirEmbedding

__all__ = ["EffirEmbedding"]
