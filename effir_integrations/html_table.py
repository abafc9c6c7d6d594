"""Tables as a notebook shows them: HTML without a script, for dark and for light pages.

Text has the colour of the page and shades are translucent, so either background will do; where
styles are taken away, as on a forge, the figures are all there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 60
"""Rows that are shown, at most: of a longer table those at both ends."""
_SHADE = "rgba(66,133,214,{:.2f})"
_PALE, _DEEP = 0.06, 0.6
"""Opacity of the shade of the smallest and of the largest value."""
_CELL = "padding:.2em .8em;border:1px solid transparent;background-clip:padding-box"
_WHOLE = ";white-space:nowrap"
_TITLE = "caption-side:top;text-align:left;font-weight:bold;white-space:nowrap;padding:.3em .8em"
_NOTE = "text-align:left;opacity:.75"
_LINE = "2px solid rgba(128,128,128,.4)"
"""Wider than those of cells, which would win where borders are one."""
_LONG = 40
"""Characters from which on a text may be broken into lines."""


def html_table(table: Table, shades: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a table of the command line as HTML: the same title, headings, cells and caption.

    Args:
        table: With texts in its cells.
        shades: Heading -> a style for each row, as of `bar` or `heat`.
    """
    columns = table.columns
    headings = [_plain(column.header) for column in columns]
    return html_rows(
        list(zip(*([_plain(x) for x in column.cells] for column in columns), strict=True)),
        headings=headings if table.show_header else (),
        totals=[_plain(column.footer) for column in columns] if table.show_footer else (),
        title=_plain(table.title or ""),
        note=_plain(table.caption or ""),
        right=[place for place, column in enumerate(columns) if column.justify == "right"],
        shades={headings.index(name): styles for name, styles in (shades or {}).items()},
    )


def html_fields(title: str, values: Mapping[str, Any]) -> str:
    """Return a table of names and values, of which those that are None are left out."""
    rows = [(x.replace("_", " "), _spelled(y)) for x, y in values.items() if y is not None]
    return html_rows(rows, title=title)


def html_rows(
    rows: Sequence[Sequence[str]],
    *,
    headings: Sequence[str] = (),
    totals: Sequence[str] = (),
    title: str = "",
    note: str = "",
    right: Collection[int] = (),
    shades: Mapping[int, Sequence[str]] | None = None,
) -> str:
    """Return a table of plain texts, every one of them escaped.

    Args:
        rows: As many texts in each.
        headings: Of the columns; empty for none.
        totals: What stands below the columns; empty for nothing.
        title: What stands above the table.
        note: What stands below it.
        right: Columns whose texts end on the right, as figures do.
        shades: Column -> a style for each row.
    """
    width = len(rows[0]) if rows else len(headings)
    ends = [f"text-align:{'right' if column in right else 'left'}" for column in range(width)]
    under, over = ([f"{end};border-{side}:{_LINE}" for end in ends] for side in ("bottom", "top"))
    body = []
    for place in _shown(len(rows)):
        if place is None:
            body.append(_across(f"… {len(rows) - MOST_ROWS:,} more …", width))
            continue
        shaded = {column: f";{styles[place]}" for column, styles in (shades or {}).items()}
        body.append(_line("td", rows[place], [x + shaded.get(y, "") for y, x in enumerate(ends)]))
    below = [_line("td", totals, over)] if totals else []
    below += [_across(note, width)] if note else []
    parts = [
        '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">',
        f'<caption style="{_TITLE}">{escape(title)}</caption>' if title else "",
        f"<thead>{_line('th', headings, under)}</thead>" if headings else "",
        f"<tbody>{''.join(body)}</tbody>",
        f"<tfoot>{''.join(below)}</tfoot>" if below else "",
        "</table>",
    ]
    return f"<div>{''.join(parts)}</div>"


def _across(text: str, columns: int) -> str:
    return f'<tr><td colspan="{columns}" style="{_CELL};{_NOTE}">{escape(text)}</td></tr>'


def _line(tag: str, texts: Sequence[str], styles: Sequence[str]) -> str:
    cells = []
    for text, style in zip(texts, styles, strict=True):
        whole = "" if len(text) > _LONG else _WHOLE
        cells.append(f'<{tag} style="{_CELL}{whole};{style}">{escape(text)}</{tag}>')
    return f"<tr>{''.join(cells)}</tr>"


def bar(share: float) -> str:
    """Return the style of a cell that is filled from the left, from 0 to 1."""
    edge = f"{100 * min(max(share, 0.0), 1.0):.0f}%"
    shade = _SHADE.format(0.35)
    return f"background-image:linear-gradient(90deg,{shade} {edge},transparent {edge})"


def heat(values: Sequence[float | None]) -> list[str]:
    """Return the styles of cells that are the deeper, the larger their value; None has no shade.

    Depth goes with the root of the share of the largest, so that small values differ to the eye.
    """
    known = [x for x in values if x is not None]
    least, most = min(known, default=0.0), max(known, default=0.0)

    def shade(value: float | None) -> str:
        if value is None:
            return ""
        share = ((value - least) / (most - least)) ** 0.5 if most > least else 1.0
        return f"background-color:{_SHADE.format(_PALE + (_DEEP - _PALE) * share)}"

    return [shade(value) for value in values]


def _shown(count: int) -> Iterator[int | None]:
    """Yield the rows that are shown of so many, and None where others are left out."""
    if count <= MOST_ROWS:
        yield from range(count)
        return
    yield from range(MOST_ROWS // 2)
    yield None
    yield from range(count - MOST_ROWS // 2, count)


def _plain(cell: Any) -> str:
    """Return what a cell of the command line says, without its marks of bold and the like."""
    from rich.text import Text

    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell), emoji=False).plain


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_spelled(x)}" for name, x in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_spelled, value))
    return str(value)
