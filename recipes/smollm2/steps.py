"""The steps of the recipe, each of which leaves a folder and is skipped where that is there."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mini.mixture import TEXTS

from effir_integrations import Encoder, adapt, distill, evaluate, finetune, load
from effir_integrations.data.jsonl import read_jsonl
from effir_integrations.encoder.folder import check_same_vectors
from effir_integrations.encoder.tokenization import save_tokenizer
from effir_integrations.files import new_folder
from effir_integrations.training.head import with_head

from .held_out import SPLIT, measured_claims
from .pairs import PAIRS, mine_pairs
from .settings import Settings
from .source import shorten

logger = logging.getLogger(__name__)

CURVE = "curve.jsonl"
RESULTS = "results.json"
RELEASE = "smollm2-retriever"


class Run:
    """One run of the recipe in its work folder."""

    def __init__(
        self, work: Path, decoder: str, teacher: str, settings: Settings, *, show_progress: bool
    ) -> None:
        self.work = work
        self.decoder = decoder
        self.teacher_name = teacher
        self.settings = settings
        self.show_progress = show_progress
        self.newest = work / "start"

    @cached_property
    def teacher(self) -> Encoder:
        """The encoder whose vectors are learned."""
        return load(self.teacher_name, precision="auto")

    @cached_property
    def texts(self) -> list[str]:
        """All texts that may be trained on, in an order that the seed settles."""
        measured = measured_claims(self.work / "held-out" / "curve")
        rows = (row for _, row in read_jsonl(self.work / "texts" / TEXTS))
        found = sorted({row["text"] for row in rows} - measured)
        random.Random(self.settings.seed).shuffle(found)
        return found

    def start(self) -> None:
        """Put a Dense towards the teacher's vectors behind the decoder's pooling."""
        if not self.newest.is_dir():
            with _timed("start"):
                self._write(self._with_head(self._decoder(), first=0), self.newest)
        self._measure_curve(0)

    def _decoder(self) -> Encoder:
        settings, out = self.settings, self.work / "adapted"
        encoder = load(
            self._shortened(),
            dtype="fp32",
            pooling=settings.pooling,
            max_length=settings.length,
            bidirectional=settings.bidirectional,
        )
        if not settings.adapt:
            return encoder
        if not out.is_dir():
            with _timed(out.name):
                texts, config = self._part(1), settings.adapting
                adapt(encoder, texts, config, out, show_progress=self.show_progress)
        return load(out, dtype="fp32")

    def _part(self, number: int) -> list[str]:
        """Return the texts of one round. The head is fitted to none of them.

        Where it was, little would be left to learn.
        """
        size = self.settings.round_texts
        first = self.settings.head_texts + (number - 1) * size
        return self.texts[first : first + size]

    def _shortened(self) -> str:
        layers, out = self.settings.layers, self.work / "decoder"
        if layers is None:
            return self.decoder
        if not out.is_dir():
            with new_folder(out) as folder:
                shorten(self.decoder, layers, folder)
        return str(out)

    def _with_head(self, encoder: Encoder, first: int) -> Encoder:
        texts = self.texts[first : first + self.settings.head_texts]
        length = self.settings.distill.max_length or self.settings.length
        pooled = Encoder(modules=list(encoder)[:2], prompts=encoder.prompts)
        made = with_head(pooled, self.teacher, texts, texts, max_length=length)
        made.max_seq_length = encoder.max_seq_length
        return made

    def _write(self, encoder: Encoder, out: Path, dtype: str = "fp32") -> None:
        with new_folder(out) as folder:
            encoder.save_pretrained(str(folder), create_model_card=False)
            save_tokenizer(encoder.tokenizer, folder)
            check_same_vectors(encoder, load(folder, dtype=dtype))

    def distill(self, number: int) -> None:
        """Follow the teacher's vectors on the texts of one round."""
        out = self.work / f"distilled-{number}"
        config = replace(self.settings.distill, learning_rate=self.settings.rates[number - 1])
        if not out.is_dir():
            with _timed(out.name):
                distill(
                    load(self.newest),
                    self.teacher,
                    self._part(number),
                    config,
                    out,
                    show_progress=self.show_progress,
                )
        self.newest = out
        self._measure_curve(number)

    def refit(self) -> None:
        """Solve for the Dense again: the states behind it are no longer those it was made for."""
        out = self.work / "refitted"
        if not out.is_dir():
            with _timed("refit"):
                # texts of no round, if there are so many: on the others the states are too good
                used = self.settings.head_texts + self.settings.rounds * self.settings.round_texts
                first = max(0, min(used, len(self.texts) - self.settings.head_texts))
                self._write(self._with_head(load(self.newest), first), out)
        self.newest = out
        self._measure_curve(self.settings.rounds)

    def finetune(self, judged: Path) -> None:
        """Train on claims and other pairs with hard negatives."""
        mined, out = self.work / "mined", self.work / "finetuned"
        if not mined.is_dir():
            with _timed("mine"):
                encoder = load(self.newest)
                mine_pairs(
                    load(
                        self.teacher_name,
                        precision="auto",
                        max_length=self.settings.mining_length,
                    ),
                    self.work / "texts",
                    judged,
                    self.work / "held-out" / "seen",
                    mined,
                    fits=lambda query: self._fits(encoder, query),
                    others=self.settings.other_pairs,
                    negatives=self.settings.negatives,
                    seed=self.settings.seed,
                )
        if not out.is_dir():
            with _timed("finetune"):
                finetune(
                    load(self.newest),
                    mined / PAIRS,
                    self.settings.finetune,
                    out,
                    negatives=self.settings.negatives,
                    show_progress=self.show_progress,
                )
        self.newest = out
        self._measure_curve(self.settings.rounds)

    def _fits(self, encoder: Encoder, query: str) -> bool:
        limit = self.settings.finetune.max_length or self.settings.length
        return len(encoder.tokenizer(query)["input_ids"]) <= limit

    def release(self) -> None:
        """Write the retriever in the dtype it was trained in, without what training left."""
        out = self.work / RELEASE
        if not out.is_dir():
            self._write(load(self.newest), out)
        self.newest = out

    def measure(self, judged: Path) -> None:
        """Measure the retriever once on the test split and on docstrings of Python's library."""
        if (self.work / RESULTS).is_file():
            return
        found = {}
        for name, data in (("scifact", judged), ("docstrings", self.work / "texts" / "docstrings")):
            with _timed(f"measure on {name}"):
                found[name] = evaluate(
                    self.newest, data, show_progress=self.show_progress
                ).to_json()
            logger.info("%s test: %s", name, found[name]["metrics"])
        (self.work / RESULTS).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def _measure_curve(self, rounds: int) -> None:
        """Add a line to the curve: what the newest folder finds for the held-out claims."""
        path = self.work / CURVE
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if any(json.loads(line)["after"] == self.newest.name for line in lines):
            return
        with _timed(f"curve after {self.newest.name}"):
            found = evaluate(
                self.newest,
                self.work / "held-out" / "curve",
                split=SPLIT,
                drop_same_id="no",
                max_length=self.settings.curve_length,
            )
        line: dict[str, Any] = {
            "after": self.newest.name,
            "texts": rounds * self.settings.round_texts,
            **found.metrics,
        }
        logger.info("curve: %s", line)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@contextmanager
def _timed(name: str) -> Iterator[None]:
    start = time.monotonic()
    logger.info("%s: begun", name)
    yield
    logger.info("%s: done in %.0f s", name, time.monotonic() - start)
