"""A table of figures that becomes several where a terminal is too narrow for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table

_NARROWEST_LABEL = 16
_BORDERS = 3
"""Blank, blank and line of every column; the table has one line more."""


class WideTable(Table):
    """Labels on the left and figures, none of which is ever cut or broken.

    Where the width does not suffice, the figures that are left go into a second table below, with
    the same labels, and so on.
    """

    labels = 1
    """How many columns at the left are repeated; their texts may be broken."""

    def add_figures(self, headings: Sequence[str]) -> None:
        """Add a column for each figure."""
        for heading in headings:
            self.add_column(heading, justify="right", no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give rich this table, or its parts."""
        parts = list(self._parts(options.max_width))
        if len(parts) == 1:
            yield from super().__rich_console__(console, options)
            return
        for number, columns in enumerate(parts, start=1):
            part = Table(
                title=self.title if number == 1 else None,
                caption=self.caption if number == len(parts) else None,
            )
            for column in columns:
                part.add_column(**_settings(column))
            for cells in zip(*(column.cells for column in columns), strict=True):
                part.add_row(*cells)
            yield part

    def _parts(self, width: int) -> Iterator[list[Column]]:
        labels, figures = self.columns[: self.labels], self.columns[self.labels :]
        repeated = 1 + sum(min(_width(x), _NARROWEST_LABEL + _BORDERS) for x in labels)
        part, used = list(labels), repeated
        for column in figures:
            if used + _width(column) > width and len(part) > len(labels):
                yield part
                part, used = list(labels), repeated
            part.append(column)
            used += _width(column)
        yield part


def _width(column: Column) -> int:
    return _BORDERS + max(cell_len(str(x)) for x in (column.header, *column.cells))


def _settings(column: Column) -> dict[str, Any]:
    names = ("header", "justify", "no_wrap", "overflow")
    return {name: getattr(column, name) for name in names}
