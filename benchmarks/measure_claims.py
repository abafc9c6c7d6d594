"""The paper's claims, tested on a model, each with a table, a plot and a verdict.

Two data sets: a BEIR folder with train and test judgements, and docstrings of Python's library.
Every figure is kept in WORK/rows.json under all that it depends on, every model in WORK/models: a
run that was killed resumes, and a second one only writes the pages: that of the model, and
docs/results.md over all models, with what we make of the figures, from
benchmarks/claims/readings.md. `--base` is the model before its retrieval training, such as
`distilled` in the folder of recipes/train_mini.py.

    python benchmarks/measure_claims.py --data scifact --work claims-work
    python benchmarks/measure_claims.py --data scifact --work claims-work --render-only
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from claims.inside import claim_4, claim_5, claim_7
from claims.lab import Lab
from claims.overview import save_verdicts, write_overview
from claims.page import CLAIMS, Section, page
from claims.quality import claim_1, claim_2, claim_3
from claims.rows import NotMeasured
from claims.speed import claim_6

from effir_integrations import errors
from effir_integrations.encoder.mini import MINI
from effir_integrations.files import new_file

MEASURE: dict[int, Callable[[Lab, Path], Section]] = {
    1: claim_1,
    2: claim_2,
    3: claim_3,
    4: claim_4,
    5: claim_5,
    6: claim_6,
    7: claim_7,
}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--data", required=True, help="BEIR folder with train and test qrels, such as SciFact")
    add("--model", default=MINI, help="folder of a model (default: %(default)s)")
    add("--name", help="what pages call it (default: the name of its folder)")
    add("--base", type=Path, help="folder of the model before its retrieval training")
    add("--work", type=Path, required=True, help="where rows and models are kept")
    add("--claims", type=int, nargs="+", choices=CLAIMS, default=list(CLAIMS))
    add("--out", type=Path, help="page of the model (default: docs/results/NAME.md)")
    add("--render-only", action="store_true", help="measure nothing, write the pages")
    add("--docstrings", type=Path, help="BEIR folder in place of the docstrings of this Python")
    add("--queries", type=int, help="so many test queries of each data set (default: all)")
    add("--others", type=int, help="documents relevant to none of them (default: all)")
    add("--max-length", type=int, default=128, help="tokens of a text in the sweeps")
    add("--head-length", type=int, default=256, help="tokens in the first line of claim 1")
    add("--steps", type=int, default=60, help="of the fine-tuning")
    add("--batch", type=int, default=32, help="pairs of a step")
    add("--rate", type=float, default=1e-4, help="learning rate of the fine-tuning")
    add("--trains", choices=("all", "lora"), default="all")
    add("--slim-steps", type=int, default=60, help="of the gates")
    add("--multiple-of", type=int, default=64, help="of MLP widths")
    add("--rounds", type=int, default=7, help="of the timing")
    add("--speed-texts", type=int, default=256, help="documents, and queries, that are timed")
    add("--isotropy-queries", type=int, default=10_000)
    add("--no-quantised", action="store_true", help="leave quantised models out")
    add("--dtype", default="auto", choices=("auto", "bf16", "fp32"), help="of the evaluation")
    add("--device", help="default: an accelerator where there is one")
    add("--threads", type=int, help="default: torch's own; timings hold for it alone")
    add("--debug", action="store_true", help="show the traceback of an error")
    return made


def run(options: argparse.Namespace) -> dict[int, Section | None]:
    """Measure the claims that were asked for, and write the page with all that is known."""
    if options.threads:
        torch.set_num_threads(options.threads)
    options.threads = torch.get_num_threads()
    lab = Lab(options)
    out = options.out or Path("docs/results") / f"{lab.name}.md"
    images = out.parent / out.stem
    sections: dict[int, Section | None] = {}
    for number, claim in MEASURE.items():
        lab.rows.measuring = number in options.claims and not options.render_only
        if lab.rows.measuring:
            print(f"\nclaim {number}: {CLAIMS[number].title}", flush=True)
        try:
            sections[number] = claim(lab, images)
        except NotMeasured as missing:
            if lab.rows.measuring:
                raise
            print(f"claim {number} is left out: {str(missing):.100}", flush=True)
            sections[number] = None
    with new_file(out) as partial:
        text = page(lab, sections, out, _command(options))
        partial.write_text(text, encoding="utf-8")
    save_verdicts(lab, sections, images)
    overview = out.parent.with_suffix(".md")
    write_overview(out.parent, overview)
    print(f"\nwritten: {out} and {overview}")
    return sections


def _command(options: argparse.Namespace) -> str:
    """Return the command that measures the same again; folders by their names alone."""
    made, words = parser(), ["python", "benchmarks/measure_claims.py"]
    for action in made._actions:
        value = getattr(options, action.dest, None)
        left_out = ("claims", "render_only", "debug", "out", "help")
        if action.dest in left_out or value in (None, False, action.default):
            continue
        words.append(action.option_strings[0])
        if value is not True:
            is_path = action.dest in ("data", "model", "base", "work", "docstrings")
            words.append(Path(value).name if is_path else str(value))
    return shlex.join(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    options = parser().parse_args(arguments)
    with errors.plain_errors(options.debug):
        errors.quiet_libraries()
        run(options)


if __name__ == "__main__":
    main()
