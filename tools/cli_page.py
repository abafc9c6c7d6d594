"""The page of the command line: every verb's own help text and options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from effir_integrations.cli import app
from effir_integrations.errors import EXIT_CODES

HEAD = """# Command line

What `effir VERB --help` says, of every verb.
"""


def cli_page() -> str:
    """Return the page, the verbs in the order of `effir --help`."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    verbs = (line for name, command in commands.items() for line in _verb(name, command))
    return "\n".join([HEAD, f"{EXIT_CODES}\n", *verbs])


def _verb(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(f"effir {name}", [], resilient_parsing=True)
    yield f"## effir {name}\n"
    for paragraph in command.help.split("\n\n"):
        lines = " ".join(paragraph.split())
        yield f"```sh\n{lines}\n```\n" if lines.startswith("effir ") else f"{lines}\n"
    records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
    for parameter in command.params:
        if record := parameter.get_help_record(context):
            records[parameter.param_type_name].append(record)
    for kind, rows in records.items():
        if rows:
            yield f"| {kind} | |\n|---|---|"
            for flag, text in rows:
                yield f"| `{_cell(flag)}` | {_cell(text).replace('<', '&lt;')} |"
            yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
