"""Choose the tokens that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..model.token_rows import named_ids
from .config import TrimConfig
from .counts import count_tokens, fronts_of, ids_of
from .scripts import letters_of, scripts_of
from .tokenizer_file import Vocabulary

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How an encoder reads texts."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig
    """Of the transformer."""
    prompts: Mapping[str, str | None]
    default_prompt_name: str | None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The tokens that stay, and what that does to texts."""

    ids: tuple[int, ...]
    """Ascending."""
    lost: float | None
    """Share of the tokens of the texts that are now spelled by smaller ones; None without texts."""
    lost_held_out: float | None
    """The same of a tenth of the texts, with what the other nine tenths would have kept; None
    where there are too few."""


def choose_for(
    reader: Reader,
    vocabulary: Vocabulary,
    texts: Sequence[str] | None,
    config: TrimConfig,
    *,
    show_progress: bool = False,
) -> Chosen:
    """Count what texts need, and choose by it.

    Raises:
        ValueError: As `choose`; nothing would go; a language is not in the vocabulary.
    """
    if config.size is not None and config.size >= len(vocabulary):
        raise ValueError(
            f"size={config.size} is not below the {len(vocabulary):,} tokens that {reader.name} "
            "has; give a smaller one"
        )
    _check_languages(vocabulary, config.languages, reader.name)
    prompts = {name: text or "" for name, text in reader.prompts.items()}
    counts = count_tokens(
        reader.tokenizer,
        texts or [],
        fronts_of(prompts, reader.default_prompt_name),
        tokens=max(vocabulary.tokens) + 1,
        seed=config.seed,
        show_progress=show_progress,
    )
    always = vocabulary.always().union(*ids_of(reader.tokenizer, ["", *prompts.values()]))
    always |= named_ids(reader.config) & vocabulary.tokens.keys()
    kept = choose(vocabulary, counts.all, config, always)
    if len(kept) == len(vocabulary):
        raise ValueError(
            f"all {len(kept):,} tokens of {reader.name} are needed, so nothing would go; give "
            "size, or min_count above 1"
        )
    held_out = None
    if counts.held_out.any():
        held_out = _lost(counts.held_out, choose(vocabulary, counts.most, config, always))
    lost = None if texts is None else _lost(counts.all, kept)
    return Chosen(ids=tuple(kept), lost=lost, lost_held_out=held_out)


def _lost(counts: np.ndarray, kept: list[int]) -> float:
    """Return the share of counted tokens that are not kept."""
    return float(1 - counts[kept].sum() / max(1, counts.sum()))


def choose(
    vocabulary: Vocabulary, counts: np.ndarray, config: TrimConfig, always: Iterable[int]
) -> list[int]:
    """Return the ids that stay, ascending.

    Args:
        vocabulary: All tokens.
        counts: (tokens,) How often texts need each.
        config: How many.
        always: Ids that stay whatever the counts.

    Raises:
        ValueError: `size` holds less than must stay, or what `min_count` promises.
    """
    kept = {part for token in always for part in vocabulary.with_parts(token)}
    size = len(vocabulary) if config.size is None else config.size
    if len(kept) > size:
        raise ValueError(
            f"size={size} is below the {len(kept):,} tokens that must stay: bytes or single "
            "characters, special and added tokens, and those of prompts; give a larger one"
        )
    floor = config.min_count or 1
    for token in _wanted(vocabulary, counts, floor, config.languages):
        more = vocabulary.with_parts(token) - kept
        if len(kept) + len(more) > size:
            if config.min_count is not None and counts[token] >= floor:
                raise ValueError(
                    f"{int((counts >= floor).sum()):,} tokens are needed at least "
                    f"min_count={floor} times, and size={size} holds those that are needed "
                    f"{int(counts[token]) + 1:,} times beside what must stay; raise either"
                )
            break
        kept |= more
    return sorted(kept)


def _wanted(
    vocabulary: Vocabulary, counts: np.ndarray, floor: int, languages: tuple[str, ...]
) -> Iterator[int]:
    """Yield ids, those that are needed most often first, then those of the languages."""
    seen = np.flatnonzero(counts >= floor)
    yield from seen[np.argsort(-counts[seen], kind="stable")].tolist()
    if languages:
        scripts = scripts_of(languages)
        for token, text in vocabulary.surfaces.items():
            if "\ufffd" not in text and letters_of(text) <= scripts:
                yield token


def _check_languages(vocabulary: Vocabulary, languages: tuple[str, ...], name: str) -> None:
    """Refuse a language of which the vocabulary has no letter.

    Raises:
        ValueError: Names it.
    """
    if not languages:
        return
    there = {script for text in vocabulary.surfaces.values() for script in letters_of(text)}
    for language in languages:
        if not scripts_of([language]) & there:
            raise ValueError(
                f"no token of {name} holds letters of {language}, so it would be spelled byte by "
                "byte or not at all; leave the language out, or choose another model"
            )
