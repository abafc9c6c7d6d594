"""Encode with a folder that `effir convert` wrote, without torch and without Transformers."""

from __future__ import annotations

from .openvino import OpenVinoEncoder
from .runtime import OnnxEncoder

__all__ = ["OnnxEncoder", "OpenVinoEncoder"]
