"""What a run has found so far: printed, and written as JSON and as a page after every row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir_integrations.files import new_file, write_json

Row = dict[str, Any]
Cells = Mapping[str, Callable[[Row], str]]
"""Title of a column -> what it shows of a row."""
FORMAT = "effir-gpu/1"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the run."""

    name: str
    """In the JSON file."""
    title: str
    """On the page."""
    text: str
    """How it is measured."""
    columns: Cells
    """Of its table; the first is text."""
    run: Callable[..., None]
    """Called with the setting, the results and the clock; adds rows."""
    seconds: float
    """What it may take at most, of eight minutes."""


class Results:
    """Rows by section, in files that are whole at any moment."""

    def __init__(self, out: Path, name: str, head: dict[str, Any], lines: list[str]) -> None:
        """Start with no section.

        Args:
            out: Folder of the files.
            name: Of the files, without ending.
            head: What the JSON file says of the machine and the settings.
            lines: What the page says of them.
        """
        self.json, self.page = out / f"{name}.json", out / f"{name}.md"
        self.head = head
        self.lines = lines
        self.failures: list[str] = []
        """What went wrong, and what was measured and is not as it should be."""
        self.sections: dict[str, tuple[Section, dict[str, Any]]] = {}
        self._start = time.perf_counter()

    def begin(self, section: Section) -> None:
        """Let rows be of this section."""
        self._now = section.name
        self._start = time.perf_counter()
        self.sections[section.name] = (section, {"rows": [], "notes": [], "seconds": 0.0})
        print(f"\n## {section.title}\n\n{section.text}\n", flush=True)

    def rows(self, name: str) -> list[Row]:
        """Return the rows of a section; none if it was not run."""
        return self.sections[name][1]["rows"] if name in self.sections else []

    def add(self, **row: Any) -> None:
        """Print a row, and write everything."""
        section, content = self.sections[self._now]
        content["rows"].append(row)
        table = _table(section, content["rows"])
        print("\n".join(table if len(content["rows"]) == 1 else table[-1:]), flush=True)
        self.write()

    def check(
        self, what: str, measured: float, *, most: float | None = None, least: float = 0.0
    ) -> bool:
        """Say whether a number is as it should be; NaN never is."""
        holds = measured <= most if most is not None else measured >= least
        if not holds:
            allowed = f"at most {most:g}" if most is not None else f"at least {least:g}"
            self.fail(f"{what}: {measured:.6g}, {allowed} is right")
        return holds

    def note(self, text: str) -> None:
        """Say something below the table of this section."""
        self.sections[self._now][1]["notes"].append(text)
        print(f"\n{text}", flush=True)
        self.write()

    def fail(self, text: str) -> None:
        """Say below the table, and at the top of the page, what is wrong."""
        self.failures.append(f"{self._now}: {text}")
        self.note(f"**FAILED: {text}**")

    def write(self) -> None:
        """Write both files."""
        self.sections[self._now][1]["seconds"] = round(time.perf_counter() - self._start, 1)
        content = {
            "format": FORMAT,
            **self.head,
            "failures": self.failures,
            "sections": {name: found for name, (_, found) in self.sections.items()},
        }
        write_json(self.json, content)
        with new_file(self.page) as partial:
            partial.write_text(self._markdown(), encoding="utf-8")

    def _markdown(self) -> str:
        parts = list(self.lines)
        parts += [f"**FAILED: {text}**" for text in self.failures]
        for section, content in self.sections.values():
            parts += [f"## {section.title}", section.text]
            if content["rows"]:
                parts.append("\n".join(_table(section, content["rows"])))
            parts += content["notes"]
        return "\n\n".join(parts) + "\n"


def _table(section: Section, rows: list[Row]) -> list[str]:
    titles = list(section.columns)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    lines += [[show(row) for show in section.columns.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]
