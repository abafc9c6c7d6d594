"""What the command line prints: tables, and one plain line for every error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..artifacts import IMPORTANCE_FILE, PLAN_FILE, ImportanceReport, PruningPlan
from ..files import FULL, folder_bytes

DONE, BUG, BAD_INPUT, BROKEN, ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = """Exit codes: 0 done; 1 a fault of effir itself; 2 input or settings that will not do;
3 a stage found its own result wrong and wrote nothing; 4 the machine (missing package, disk,
memory); 130 interrupted."""

_FULL_WORDS = (
    *(os.strerror(number) for number in FULL),
    "iostream error",
    "file write failed",
    "PytorchStreamWriter failed",
    "unexpected pos",
)


def stdout() -> Console:
    """Return the console for results; wide enough for tables when it is a pipe."""
    width = None if sys.stdout.isatty() else 120
    return Console(file=sys.stdout, width=width, highlight=False)


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Turn an exception into one line on standard error and an exit code, unless `debug`."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if debug or isinstance(error, SystemExit) or _is_click(error):
            raise
        code = exit_code(error)
        hint = "" if code != BUG else " (--debug shows where)"
        sys.stderr.write(f"effir: {one_line(error)}{hint}\n")
        raise SystemExit(code) from None


def _is_click(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("click", "typer")


def exit_code(error: BaseException) -> int:
    """Return the exit code that stands for an exception."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if _is_disk_full(error):
        return ENVIRONMENT
    if isinstance(error, (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError)):
        return BAD_INPUT
    if isinstance(error, (ImportError, OSError, MemoryError)):
        return ENVIRONMENT
    return BROKEN if type(error) is RuntimeError else BUG


def _is_disk_full(error: BaseException | None) -> bool:
    """Say whether writing failed, whichever library wrote: each has a class and words of its own.

    C++ streams do not say why; on a disk that works there is one reason.
    """
    seen: list[BaseException] = []  # a chain may come round to where it began
    while error is not None and error not in seen:
        seen.append(error)
        if getattr(error, "errno", None) in FULL or any(word in str(error) for word in _FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line(error: BaseException) -> str:
    """Return what an exception says on one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written was left"
    text = " ".join(str(error).split())
    if _is_disk_full(error) and not _says_what_to_do(error):
        name = getattr(error, "filename", None)
        place = f"{name}: " if name else ""
        reason = "" if place else f" ({text})"
        text = f"{place}the disk is full{reason}; make room, then give the same again"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    if exit_code(error) == BUG or not text:
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 600 else text[:600] + " ..."


def _says_what_to_do(error: BaseException) -> bool:
    return isinstance(error, OSError) and "; " in (error.strerror or "")


def quiet_libraries() -> None:
    """Keep the progress bars and load reports of other libraries off the screen."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("sentence_transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def print_json(content: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def importance_table(report: ImportanceReport) -> Table:
    """Lay out the importance of every sublayer: 1 - cosine, mean over tokens."""
    table = Table(title=f"Importance of the sublayers of {_short(report.base.name)} (eq. 3)")
    for name in ("layer", "attention", "MLP", "block"):
        table.add_column(name, justify="right")
    rows = zip(report.attention, report.mlp, report.block, strict=True)
    for layer, scores in enumerate(rows):
        table.add_row(str(layer), *("-" if x is None else f"{x:.4f}" for x in scores))
    return table


def plan_table(plan: PruningPlan, report: ImportanceReport | None = None) -> Table:
    """Lay out what goes and what stays, layer by layer."""
    base, widths = plan.base, plan.mlp_widths
    gone = {*base.dropped_attention, *plan.drop_attention}
    share = plan.parameters / base.parameters
    table = Table(
        title=f"{_short(base.name)}: {base.parameters:,} parameters without LM head "
        f"-> {plan.parameters:,} ({share:.1%})",
        show_footer=True,
    )
    table.add_column("layer", "all", justify="right")
    kept = base.layers - len(gone)
    table.add_column("attention", f"{kept} of {base.layers}", justify="right")
    total = f"{sum(base.mlp_widths):,} -> {sum(widths):,}"
    table.add_column("MLP width", total, justify="right")
    if report is not None:
        table.add_column("MLP score", justify="right")
        table.add_column("attention score", justify="right")
    table.add_column("parameters", f"{base.parameters:,} -> {plan.parameters:,}", justify="right")
    for layer in range(base.layers):
        table.add_row(*_plan_row(plan, report, layer, layer in gone))
    return table


def _plan_row(
    plan: PruningPlan, report: ImportanceReport | None, layer: int, no_attention: bool
) -> list[str]:
    base = plan.base
    before, after = base.mlp_widths[layer], plan.mlp_widths[layer]
    mlp = base.mlp_parameters[layer]
    if layer in plan.drop_mlp:
        mlp = 0
    else:
        mlp -= (before - after) * base.neuron_parameters
    attention = 0 if no_attention else base.attention_parameters[layer]
    width = f"{before:,}" if before == after else f"{before:,} -> {after:,}"
    row = [str(layer), "dropped" if no_attention else "kept"]
    row.append(width if after else f"{before:,} -> dropped")
    if report is not None:
        scores = (report.mlp[layer], report.attention[layer])
        row += ["-" if score is None else f"{score:.4f}" for score in scores]
    total = base.attention_parameters[layer] + base.mlp_parameters[layer]
    now = attention + mlp
    row.append(f"{total:,}" if now == total else f"{total:,} -> {now:,}")
    return row


def plan_summary(plan: PruningPlan) -> dict[str, Any]:
    """Return the figures of a plan for `--json`."""
    return {
        "base": plan.base.name,
        "family": plan.base.family,
        "drop_mlp": plan.drop_mlp,
        "drop_attention": plan.drop_attention,
        "mlp_widths_before": plan.base.mlp_widths,
        "mlp_widths": plan.mlp_widths,
        "parameters_before": plan.base.parameters,
        "parameters": plan.parameters,
    }


def describe_folder(folder: Path) -> dict[str, Any]:
    """Return what `show` prints of a run folder or a model folder, without loading weights.

    Raises:
        FileNotFoundError: It is neither.
        ValueError: The model's family is not supported.
    """
    if (folder / PLAN_FILE).is_file():
        return {"kind": "plan", **plan_summary(PruningPlan.load(folder))}
    if (folder / IMPORTANCE_FILE).is_file():
        report = ImportanceReport.load(folder)
        return {"kind": "importance", "base": report.base.name, "block": report.block,
                "attention": report.attention, "mlp": report.mlp}  # fmt: skip
    from ..compression.from_disk import identity_on_disk
    from ..compression.history import read_history
    from ..loading import find_folder

    place = find_folder(folder)
    identity = identity_on_disk(place)
    return {
        "kind": "model",
        "model": str(folder),
        "family": identity.family,
        "layers": identity.layers,
        "hidden_size": identity.hidden_size,
        "mlp_widths": identity.mlp_widths,
        "dropped_attention": identity.dropped_attention,
        "parameters": identity.parameters,
        "bytes": folder_bytes(place),
        "history": read_history(place),
    }


def model_table(description: dict[str, Any]) -> Table:
    """Lay out the layers of a model folder."""
    history = description["history"] or {}
    before = history.get("mlp_widths_before", description["mlp_widths"])
    table = Table(
        title=f"{_short(description['model'])}: {description['family']}, "
        f"{description['parameters']:,} parameters without LM head, "
        f"{description['bytes'] / 1e6:,.1f} MB",
        caption=f"pruned from {_short(history['base'])}" if history else None,
    )
    for name in ("layer", "attention", "MLP width"):
        table.add_column(name, justify="right")
    for layer, width in enumerate(description["mlp_widths"]):
        attention = "dropped" if layer in description["dropped_attention"] else "kept"
        was = "" if before[layer] == width else f" (was {before[layer]:,})"
        table.add_row(str(layer), attention, (f"{width:,}" if width else "dropped") + was)
    return table


def _short(name: str) -> str:
    return Path(name).name or name


def show(content: Any, as_json: bool, quiet: bool) -> None:
    """Print a result as JSON, as a table, or not at all."""
    if as_json:
        print_json(content)
    elif not quiet:
        stdout().print(content)


def show_plan(
    plan: PruningPlan,
    report: ImportanceReport | None,
    as_json: bool,
    quiet: bool,
    out: Path | None = None,
) -> None:
    """Print a plan, and where the model went that it describes."""
    if as_json:
        print_json({**plan_summary(plan), "out": str(out) if out else None})
    elif not quiet:
        stdout().print(plan_table(plan, report))
        if out is not None:
            stdout().print(f"written to {out}")


def show_trained(history: dict[str, Any], as_json: bool, quiet: bool, out: Path) -> None:
    """Print what the last stage of a history trained, and where the model went."""
    if not history:
        return
    record = history["made_by"][-1]
    if as_json:
        print_json({"out": str(out), "parameters": history["parameters"], **record})
    elif not quiet:
        from ..training.config import NO_LOSSES

        data = record["data"]
        table = Table(title=f"{record['stage']}: {data['examples']:,} examples of {data['source']}")
        logged = record["log"][-1] if record["log"] else {}
        names = sorted((name for name in logged if name not in NO_LOSSES), key="step".__ne__)
        for name in names:
            table.add_column(name, justify="right")
        for entry in record["log"]:
            table.add_row(*(f"{entry.get(name, float('nan')):,.4g}" for name in names))
        stdout().print(table)
        stdout().print(f"written to {out}")
