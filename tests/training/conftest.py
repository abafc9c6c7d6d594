"""What is seen here of a model is its row in the architecture table."""

from __future__ import annotations

import pytest


@pytest.fixture
def family(kind: str) -> str:
    """One family of each kind; surgery, encoding and files are tested with all of them."""
    return kind
