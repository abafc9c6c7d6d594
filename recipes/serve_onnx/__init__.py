"""A small server of embeddings over ONNX Runtime."""

from __future__ import annotations
