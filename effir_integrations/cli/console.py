"""What the command line prints: tables, and one plain line for every error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ..model.plan import ImportanceReport, PruningPlan


def stdout() -> Console:
    """Return the console for results; wide enough for tables when it is a pipe."""
    width = None if sys.stdout.isatty() else 120
    return Console(file=sys.stdout, width=width, highlight=False)


def print_json(content: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def show(content: Any, as_json: bool, quiet: bool) -> None:
    """Print a result as JSON, as a table, or not at all."""
    if as_json:
        print_json(content)
    elif not quiet:
        stdout().print(content)


def show_line(content: Any, line: str, as_json: bool, quiet: bool) -> None:
    """Print a result as JSON, as one line, or not at all."""
    if as_json:
        print_json(content)
    elif not quiet:
        # unlike a table, a path must not be broken where the console ends
        stdout().print(line, soft_wrap=True, markup=False)


def show_plan(
    plan: PruningPlan,
    report: ImportanceReport | None,
    as_json: bool,
    quiet: bool,
    out: Path | None = None,
) -> None:
    """Print a plan, and where the model went that it describes."""
    from ..model.tables import plan_table
    from .shown import plan_summary

    if as_json:
        print_json({**plan_summary(plan), "out": str(out) if out else None})
    elif not quiet:
        stdout().print(plan_table(plan, report))
        if out is not None:
            stdout().print(f"written to {out}")


def show_trained(out: Path, as_json: bool, quiet: bool) -> None:
    """Print what the last stage trained, and where the model went; one process of several does."""
    from ..encoder.history import HISTORY_FILE
    from ..files import read_json
    from ..training.launch import is_main_process, is_sharded

    if not is_main_process() or is_sharded():
        return
    history = read_json(out / HISTORY_FILE, "what training writes")
    record = history["made_by"][-1]
    if as_json:
        print_json({"out": str(out), "parameters": history["parameters"], **record})
    elif not quiet:
        from ..training.config import HELD_OUT, NO_LOSSES

        data = record["data"]
        table = Table(title=f"{record['stage']}: {data['examples']:,} examples of {data['source']}")
        logged = record["log"][-1] if record["log"] else {}
        names = sorted((name for name in logged if name not in NO_LOSSES), key="step".__ne__)
        for name in names:
            table.add_column(name, justify="right")
        for entry in record["log"]:
            table.add_row(*(f"{entry.get(name, float('nan')):,.4g}" for name in names))
        stdout().print(table)
        if held := record.get(HELD_OUT):
            change = f"{held['before']:.4f} to {held['after']:.4f}"
            stdout().print(f"cosine to the teacher on {data['held_out']} held-out texts: {change}")
        stdout().print(f"written to {out}")
