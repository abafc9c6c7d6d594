"""Pyserini with encoders of this package; importing this starts no JVM and imports no Pyserini.

Put `effir_integrations.` in front of a command of Pyserini:
`python -m effir_integrations.pyserini.encode ...`.
"""

from __future__ import annotations

from ..adapters.pyserini.encoders import EffirDocumentEncoder, EffirQueryEncoder
from ..adapters.pyserini.export import export_to_pyserini
from ..adapters.pyserini.launch import launch
from ..adapters.pyserini.register import register

__all__ = [
    "EffirDocumentEncoder",
    "EffirQueryEncoder",
    "export_to_pyserini",
    "launch",
    "register",
]
