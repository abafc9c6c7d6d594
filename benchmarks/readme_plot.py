"""The plot of the README: the share of nDCG@10 that is kept, against documents encoded a second.

A model with MLP neurons or whole MLPs gone, refitted and merely cut, beside all-MiniLM-L6-v2, as it
is published and with half of its neurons gone. Quality is that of a BEIR corpus's test judgements,
with the 95 % interval of the share (paired bootstrap over queries); speed is timed in turns, all
models in one run. Models are made without training, on the texts that come with the package. Rows
that the JSON holds are not measured again; all are timed again where one of them was not.

    python benchmarks/readme_plot.py --model all-mpnet-base-v2 --data scifact --others 300 --drop 3
    python benchmarks/readme_plot.py --draw-only
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from claims.texts import processor
from encode_parts import environment
from minilm import minilm
from readme_points import PUBLISHED, draw
from subset import subset

from effir_integrations import errors, load
from effir_integrations.data.beir import load_beir
from effir_integrations.evaluation.evaluate import evaluate
from effir_integrations.evaluation.intervals import interval
from effir_integrations.evaluation.speed import interleaved_speed
from effir_integrations.files import read_json, write_json
from effir_integrations.pruning.compress import compress
from effir_integrations.pruning.config import CompressConfig

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
SMALLER = "all-MiniLM-L6-v2"
SPEED_DOCUMENTS = 64


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--model", help="folder of the model that is pruned")
    add("--data", help="BEIR folder")
    add("--others", type=int, help="documents relevant to no query (default: all)")
    add("--max-length", type=int, default=128)
    add("--keep", type=float, nargs="+", default=[0.5, 0.3], help="shares of the neurons")
    add("--drop", type=int, nargs="+", default=[3, 6], help="numbers of MLPs")
    add("--dtype", default="fp32")
    add("--rounds", type=int, default=7, help="of the timing; an odd number")
    add("--work", type=Path, help="keep models here (default: a temporary folder)")
    add("--json", type=Path, default=RESULTS / "readme.json", help="figures, also to resume from")
    add("--png", type=Path, default=RESULTS / "readme.png")
    add("--draw-only", action="store_true", help="measure nothing, draw what the JSON holds")
    add("--debug", action="store_true", help="show the traceback of an error")
    return made


@dataclass(frozen=True)
class Variant:
    """A point of the plot: a model, or how it is made."""

    series: str
    label: str
    base: str
    source: str
    config: CompressConfig | None = None

    @property
    def name(self) -> str:
        """What the JSON calls it."""
        if self.config is None:
            return self.base
        return f"{self.base}: {self.series.removeprefix(f'{self.base}: ')}, {self.label}"


def variants(options: argparse.Namespace) -> Iterator[Variant]:
    """Yield the models, the one that the others are shares of first."""
    model, smaller = (Path(options.model).name, options.model), (SMALLER, minilm())
    yield Variant(PUBLISHED, model[0], *model)
    for keep in options.keep:
        refitted = CompressConfig(keep_neurons=keep)
        plain = CompressConfig(keep_neurons=keep, method="plain")
        label = f"{100 * keep:.0f} % left"
        yield Variant("neurons removed, refitted", label, *model, refitted)
        yield Variant("neurons removed, no refit", label, *model, plain)
    for count in options.drop:
        label = f"{count} MLP{'s' if count > 1 else ''} gone"
        refitted = CompressConfig(drop_mlp=count, keep_neurons=1)
        yield Variant("MLPs dropped, others refitted", label, *model, refitted)
        yield Variant("MLPs dropped, no refit", label, *model, CompressConfig(drop_mlp=count))
    if Path(options.model).resolve() == Path(smaller[1]).resolve():
        return
    yield Variant(PUBLISHED, smaller[0], *smaller)
    half = CompressConfig(keep_neurons=0.5)
    yield Variant(f"{smaller[0]}: neurons removed, refitted", "50 % left", *smaller, half)


class Bench:
    """Makes and measures what the JSON does not hold yet."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work = options, work
        self.variants = list(variants(options))
        self.data = subset(load_beir(options.data, "test"), others=options.others)
        self.found: dict[str, Any] = {"command": command(options), "settings": self.settings()}
        self.rows: list[dict[str, Any]] = []
        if options.json.is_file():
            self.resume(read_json(options.json, "figures of this script"))

    def settings(self) -> dict[str, Any]:
        """Return what the figures depend on, beside the machine."""
        return {
            "model": Path(self.options.model).name,
            "data": self.data.name,
            "documents": len(self.data.documents),
            "queries": len(self.data.queries),
            "max_length": self.options.max_length,
            "dtype": self.options.dtype,
        }

    def resume(self, before: dict[str, Any]) -> None:
        """Take over rows that were measured with the same settings.

        Raises:
            ValueError: They were measured with others.
        """
        if before["settings"] != self.settings():
            raise ValueError(
                f"{self.options.json} was measured with {before['settings']}, and {self.settings()}"
                " is asked for; name another --json, or remove that file"
            )
        wanted = [variant.name for variant in self.variants]
        self.rows = [row for row in before["rows"] if row["name"] in wanted]
        known = {name: value for name, value in before.items() if name in ("machine", "versions")}
        self.found = known | self.found

    def folder(self, variant: Variant) -> str:
        """Return where a model lies, made if it is not there."""
        if variant.config is None:
            return variant.source
        out = self.work / re.sub(r"[^\w.]+", "-", variant.name)
        if not out.is_dir():
            compress(variant.source, out, variant.config)
        return str(out)

    def measure(self) -> None:
        """Evaluate each model that has no row yet; the JSON is written after every one."""
        known = {row["name"] for row in self.rows}
        for variant in self.variants:
            if variant.name in known:
                continue
            print(f"evaluating {variant.name}", flush=True)
            found = evaluate(
                self.folder(variant),
                self.data,
                max_length=self.options.max_length,
                dtype=self.options.dtype,
            )
            row: dict[str, Any] = {
                "name": variant.name,
                "series": variant.series,
                "label": variant.label,
            }
            row |= {"base": variant.base, "parameters": found.parameters}
            row |= {name: round(found.metrics[name], 4) for name in ("nDCG@10", "R@100")}
            self.rows.append(row | {"by query": found.ndcg_by_query})
            self.save()

    def time(self) -> None:
        """Time all models in turns, unless all were, as often."""
        timed = all("documents/s" in row for row in self.rows)
        if timed and self.found["machine"]["rounds"] == self.options.rounds:
            return
        documents = list(self.data.documents.values())
        texts = documents[:: max(1, len(documents) // SPEED_DOCUMENTS)][:SPEED_DOCUMENTS]
        print(f"timing {len(self.variants)} models", flush=True)
        encoders = [load(self.folder(x), dtype=self.options.dtype) for x in self.variants]
        speeds = rounds(encoders, texts, self.options.rounds, self.options.max_length)
        for variant, measured in zip(self.variants, zip(*speeds, strict=True), strict=True):
            (row,) = (row for row in self.rows if row["name"] == variant.name)
            row["documents/s"] = round(statistics.median(measured), 1)
            row["documents/s, slowest and fastest round"] = [
                round(min(measured), 1),
                round(max(measured), 1),
            ]
        self.found["machine"] = {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "date": date.today().isoformat(),
            "rounds": self.options.rounds,
            "documents timed": len(texts),
        }
        self.found["versions"] = environment()
        self.save()

    def save(self) -> None:
        """Write the JSON, with what each row is of the first."""
        place = {variant.name: number for number, variant in enumerate(self.variants)}
        self.rows.sort(key=lambda row: place[row["name"]])
        first = self.rows[0]
        for row in self.rows:
            low, high = interval(np.divide, row["by query"], first["by query"])
            row["share"] = round(row["nDCG@10"] / first["nDCG@10"], 4)
            row["interval"] = [round(low, 4), round(high, 4)]
            if "documents/s" in row:
                row["times as fast"] = round(row["documents/s"] / first["documents/s"], 2)
        write_json(self.options.json, self.found | {"rows": self.rows})


def rounds(
    encoders: Sequence[Any], texts: Sequence[str], count: int, max_length: int
) -> list[list[float]]:
    """Return documents a second of every model, (rounds, models); every second round backwards."""
    found = []
    for turn in range(count):
        step = (-1) ** turn
        speeds = interleaved_speed(
            encoders[::step], texts, texts[:1], rounds=1, repeats=1, max_length=max_length
        )
        found.append([speed.documents_per_second for speed in speeds[::step]])
    return found


def command(options: argparse.Namespace) -> str:
    """Return the command that measures the same again; folders by their names alone."""
    words = ["python", "benchmarks/readme_plot.py"]
    for action in parser()._actions:
        value = getattr(options, action.dest, None)
        if action.dest in ("work", "json", "png", "debug") or value in (None, action.default):
            continue
        values = value if isinstance(value, list) else [value]
        named = action.dest in ("model", "data")
        words += [action.option_strings[0], *(Path(x).name if named else str(x) for x in values)]
    return shlex.join(words)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures of the plot as Markdown."""
    lines = ["| model | parameters | nDCG@10 | share | documents/s | times as fast |"]
    lines.append("|" + "---|" * 6)
    for row in rows:
        low, high = row["interval"]
        share = f"{row['share']:.4f} ({low:.3f} to {high:.3f})"
        slow, fast = row["documents/s, slowest and fastest round"]
        speed = f"{row['documents/s']} ({slow} to {fast})"
        cells = [row["name"], f"{row['parameters']:,}", f"{row['nDCG@10']:.4f}", share, speed]
        lines.append("| " + " | ".join([*cells, f"{row['times as fast']:.2f}"]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, print the table, and draw it."""
    made = parser()
    options = made.parse_args(arguments)
    if not options.draw_only and not (options.model and options.data):
        made.error("give --model and --data, or --draw-only with the figures that were measured")
    with errors.plain_errors(options.debug), TemporaryDirectory() as temporary:
        errors.quiet_libraries()
        if not options.draw_only:
            bench = Bench(options, options.work or Path(temporary))
            bench.measure()
            bench.time()
        found = read_json(options.json, "figures of this script")
        if any("documents/s" not in row for row in found["rows"]):
            raise ValueError(f"{options.json} has models that were not timed; measure to the end")
        print(table(found["rows"]))
        print(f"\nwritten: {options.json} and {draw(found, options.png)}")


if __name__ == "__main__":
    main()
