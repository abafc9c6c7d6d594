"""Leave the tokens that texts need: the same encoder with a smaller vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.calibration import Calibration, load_calibration
from ..encoder.encoder import transformer_model
from ..encoder.folder import save
from ..encoder.history import (
    history_at,
    history_of,
    in_space,
    read_history,
    with_stage,
    write_history,
)
from ..encoder.loading import load
from ..encoder.sidecars import card_of, write_sidecars
from ..encoder.sources import find_architecture, find_folder, find_source, transformer_folder
from ..encoder.space_record import space_made_of
from ..encoder.tokenization import save_tokenizer
from ..files import claimed, folder_bytes, new_folder, read_json
from ..html_table import html_fields
from ..model.apply import check_code
from ..model.config_file import check_tokenizer
from ..model.peft_folder import with_bases
from ..model.plan import PruningPlan
from ..model.rewrite import identity_on_disk, rewrite_rows
from ..model.surgery import parameter_count
from ..model.token_rows import check_rows
from ..progress import is_shown
from .choose import Chosen, Reader, choose_for
from .config import TrimConfig
from .taking import take
from .tokenizer_file import Vocabulary

if TYPE_CHECKING:
    from ..encoder.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class Trimmed:
    """What `trim` wrote."""

    out: Path
    encoder: Encoder = field(repr=False)
    """As loaded from there."""
    tokens_before: int
    tokens: int
    parameters_before: int
    parameters: int
    size: int
    """Bytes of the folder."""
    texts: int
    """How many were counted."""
    lost: float | None
    """Share of the tokens of these texts that are now spelled by smaller ones."""
    lost_held_out: float | None
    """The same of a tenth of the texts, with what the other nine tenths would have kept: what to
    expect of new texts. None where there are too few."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values.pop("encoder")
        return {**values, "out": str(self.out)}

    def _repr_html_(self) -> str:
        """Return the fields, as a notebook shows them."""
        return html_fields("Trimmed", self.to_json())


def trim(
    model: str | Path,
    out: str | Path,
    config: TrimConfig | None = None,
    *,
    texts: str | Path | Sequence[str] | None = None,
    from_disk: bool = False,
    force: bool = False,
    show_progress: bool | None = None,
) -> Trimmed:
    """Write an encoder with the tokens that texts or languages need, and without the others.

    Weights change in nothing but the rows that go. A text all of whose tokens stay has the vector
    that it had, bit for bit; a token that went is spelled by smaller ones. The model type stays,
    so what could load the model still can.

    Args:
        model: Folder or hub name of a Sentence Transformers or bare Hugging Face model, pruned or
            not.
        out: Folder to write; must be new or empty unless `force`.
        config: How many tokens stay, and of which languages.
        texts: What will be encoded: queries and documents; as of `load_calibration`.
        from_disk: Copy the checkpoint tensor by tensor, for a model that is larger than memory;
            it is then not run, so vectors are not compared.
        force: Replace what is there, at the end and in one step.
        show_progress: Draw a bar over the texts;
            None: where someone watches, in a notebook or a terminal.

    Returns:
        The encoder as loaded from the written folder, and what changed.

    Raises:
        FileExistsError: `out` holds something and `force` was not given, or files of others.
        FileNotFoundError: The model or the texts are not there.
        OSError: The disk is full.
        RuntimeError: A text whose tokens stay gets other tokens or another vector; nothing is left
            behind.
        ValueError: Nothing says what stays, or nothing would go; the tokenizer is of a kind that
            cannot be trimmed, or `size` is too small or too large; the model was trimmed before, or
            its config names tokens in a way that is not known; a language is not in it.
    """
    show_progress = is_shown(show_progress)
    config, out = config or TrimConfig(), Path(out)
    if texts is None and not config.languages:
        raise ValueError(
            "nothing says which tokens stay; give texts such as those that will be encoded, or "
            "languages"
        )
    with claimed(out, force=force, sources=with_bases([model])):
        find_architecture(model)
        _check_not_trimmed(model)
        corpus = None
        if texts is not None:
            corpus = load_calibration(
                texts, limit=config.text_count, seed=config.seed, show_progress=show_progress
            )
        work = _Work(
            model=model, out=out, config=config, corpus=corpus, show_progress=show_progress
        )
        return work.from_disk(force=force) if from_disk else work.in_memory(force=force)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be trimmed, and how."""

    model: str | Path
    out: Path
    config: TrimConfig
    corpus: Calibration | None
    show_progress: bool

    @property
    def texts(self) -> Sequence[str] | None:
        return None if self.corpus is None else self.corpus.texts

    def in_memory(self, *, force: bool) -> Trimmed:
        encoder = load(self.model)
        transformer = transformer_model(encoder)
        check_code(transformer)
        check_rows(transformer, str(self.model))
        reader = Reader(
            name=str(self.model),
            tokenizer=encoder.tokenizer,
            config=transformer.config,
            prompts=encoder.prompts,
            default_prompt_name=encoder.default_prompt_name,
        )
        vocabulary, chosen = self.choose(reader)
        history, before = history_at(encoder, self.model), parameter_count(transformer)
        take(encoder, vocabulary, chosen.ids, self.texts or [])
        after = parameter_count(transformer)
        history = self.history(history, vocabulary, chosen, after)
        made = save(encoder, history, self.out, force=force)
        return self.trimmed(made, vocabulary, chosen, (before, after))

    def from_disk(self, *, force: bool) -> Trimmed:
        source = find_folder(self.model)
        weights = transformer_folder(source)
        check_tokenizer(weights)
        history = read_history(source) or history_of(PruningPlan(base=identity_on_disk(weights)))
        needed = folder_bytes(source) + 20_000_000  # no more than the base takes
        with new_folder(self.out, force=force, needed_bytes=needed) as partial:
            write_sidecars(source, weights, partial)
            vocabulary, chosen = self.choose(_reader_on_disk(source, partial))
            save_tokenizer(vocabulary.cut(chosen.ids), partial)
            before, after = rewrite_rows(
                weights, torch.tensor(chosen.ids), partial, show_progress=self.show_progress
            )
            history = self.history(history, vocabulary, chosen, after)
            write_history(partial, history, card_of(source))
        made = load(self.out, from_disk=True)
        return self.trimmed(made, vocabulary, chosen, (before, after))

    def choose(self, reader: Reader) -> tuple[Vocabulary, Chosen]:
        vocabulary = Vocabulary(reader.tokenizer, reader.name)
        chosen = choose_for(
            reader, vocabulary, self.texts, self.config, show_progress=self.show_progress
        )
        return vocabulary, chosen

    def history(
        self, before: Mapping[str, Any], vocabulary: Vocabulary, chosen: Chosen, parameters: int
    ) -> dict[str, Any]:
        record = {
            "stage": "trim",
            "config": asdict(self.config),
            "calibration": {} if self.corpus is None else self.corpus.record,
            "tokens": len(chosen.ids),
            "tokens_before": len(vocabulary),
            "lost": chosen.lost,
            "lost_held_out": chosen.lost_held_out,
        }
        history = {**with_stage(before, record), "parameters": parameters}
        return in_space(history, space_made_of(self.model))

    def trimmed(
        self, made: Encoder, vocabulary: Vocabulary, chosen: Chosen, parameters: tuple[int, int]
    ) -> Trimmed:
        return Trimmed(
            out=self.out,
            encoder=made,
            tokens_before=len(vocabulary),
            tokens=len(chosen.ids),
            parameters_before=parameters[0],
            parameters=parameters[1],
            size=folder_bytes(self.out),
            texts=0 if self.corpus is None else len(self.corpus),
            lost=chosen.lost,
            lost_held_out=chosen.lost_held_out,
        )


def _reader_on_disk(source: Path, partial: Path) -> Reader:
    """Return how the encoder in a folder reads texts, whose tokenizer lies in the new one."""
    from transformers import AutoConfig, AutoTokenizer

    stated = read_json(partial / "config_sentence_transformers.json", "prompts of an encoder")
    return Reader(
        name=str(source),
        tokenizer=AutoTokenizer.from_pretrained(partial),
        config=AutoConfig.from_pretrained(transformer_folder(source)),
        prompts=stated.get("prompts") or {},
        default_prompt_name=stated.get("default_prompt_name"),
    )


def _check_not_trimmed(model: str | Path) -> None:
    """Refuse a vocabulary of which nobody could say what it lost.

    Raises:
        ValueError: The history in the model's folder names a trim.
    """
    source = Path(find_source(model))
    history = (read_history(source) if source.is_dir() else None) or {"made_by": ()}
    for record in history["made_by"]:
        if record.get("stage") == "trim":
            raise ValueError(
                f"{model} was trimmed before, from {record['tokens_before']:,} to "
                f"{record['tokens']:,} tokens, and what went does not come back; trim the model "
                "that it was made of instead"
            )
