"""The long description: the README as a page of its own, without its plot and its links within."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
_PLOT = re.compile(r"!\[.*?(?=^## )", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]*\)")

setup(
    long_description=_LINK.sub(r"\1", _PLOT.sub("", README)),
    long_description_content_type="text/markdown",
)
