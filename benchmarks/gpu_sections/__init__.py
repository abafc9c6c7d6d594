"""The sections of `gpu.py`: whether vectors are right, how fast they come, what pruning costs."""

from __future__ import annotations

import os

# read once, when Transformers is imported: nothing here is on a hub, so none is to be waited for
os.environ.setdefault("HF_HUB_OFFLINE", "1")
