"""What a converted folder says beside its graph: prompts, limit, padding, special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..extras import import_extra
from ..fields import blamed_on, check_fields
from ..files import read_json

_EXPECTED = "a folder that `effir convert` wrote"
_SIDES = ("left", "right")


@dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """How texts become token ids."""

    max_length: int
    """Tokens a text is cut to."""
    pad_token: str
    truncation_side: str = "right"
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Name -> text in front of a text."""
    default_prompt_name: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_length < 1:
            raise ValueError(f"model_max_length={self.max_length} must be at least 1 token")
        if self.truncation_side not in _SIDES:
            raise ValueError(
                f"truncation_side={self.truncation_side!r} is not known; choose from "
                f"{', '.join(_SIDES)}"
            )

    @classmethod
    def read(cls, folder: Path) -> FolderSettings:
        """Read the JSON files of a folder.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: One is damaged.
        """
        path = folder / "tokenizer_config.json"
        tokens = read_json(path, _EXPECTED)
        told = read_json(folder / "config_sentence_transformers.json", _EXPECTED)
        prompts = told.get("prompts")
        if isinstance(prompts, Mapping):
            prompts = {name: "" if text is None else text for name, text in prompts.items()}
        with blamed_on(folder):
            return cls(
                max_length=tokens.get("model_max_length", 0),
                pad_token=tokens.get("pad_token", ""),
                truncation_side=tokens.get("truncation_side", "right"),
                prompts={} if prompts is None else prompts,
                default_prompt_name=told.get("default_prompt_name"),
            )


def read_tokenizer(folder: Path, settings: FolderSettings) -> Any:
    """Return the folder's tokenizer, which cuts texts and pads none.

    Raises:
        FileNotFoundError: There is none.
        ImportError: The package tokenizers is not installed.
        ValueError: It is damaged, or has not the pad token.
    """
    path = folder / "tokenizer.json"
    tokenizers = import_extra("tokenizers", "onnx")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; expected {_EXPECTED}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the class of all that it raises
        raise ValueError(
            f"{path} is no tokenizer ({' '.join(str(error).split())[:200]}); convert the model "
            "again"
        ) from error
    if tokenizer.token_to_id(settings.pad_token) is None:
        raise ValueError(f"{path} has not the pad token {settings.pad_token!r}; convert again")
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings.max_length, direction=settings.truncation_side)
    return tokenizer


def special_ids(folder: Path, tokenizer: Any) -> set[int]:
    """Return the ids of the tokens that a tokenizer puts around texts."""
    content = read_json(folder / "special_tokens_map.json", _EXPECTED)
    listed = [
        x for value in content.values() for x in (value if isinstance(value, list) else [value])
    ]
    names = [x["content"] if isinstance(x, Mapping) else x for x in listed]
    return {tokenizer.token_to_id(name) for name in names} - {None}
