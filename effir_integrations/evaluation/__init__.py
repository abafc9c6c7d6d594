"""Measure quality, size and speed of models on retrieval data."""

from __future__ import annotations
