"""A notebook as a page: its text, its code, and what the code gave when it was run."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def notebook_page(notebook: Path, pictures: Path) -> str:
    """Return the Markdown of a notebook, and write its pictures into a folder.

    Args:
        notebook: With its outputs.
        pictures: Folder of the page.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    parts = []
    for number, cell in enumerate(content["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for place, output in enumerate(cell["outputs"]):
            name = f"{notebook.stem}-{number}-{place}.png"
            parts.append(_shown(output, pictures / name))
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any], picture: Path) -> str:
    """Return an output in Markdown, of which HTML is a part; a picture is written."""
    data = output.get("data", {})
    if "image/png" in data:
        picture.write_bytes(base64.b64decode("".join(data["image/png"])))
        return f"![what the cell draws]({picture.name})"
    if "text/html" in data:
        return "".join(data["text/html"]).strip()
    text = "".join(output.get("text") or data.get("text/plain", ""))
    return f"```text\n{_COLOURS.sub('', text).rstrip()}\n```"
