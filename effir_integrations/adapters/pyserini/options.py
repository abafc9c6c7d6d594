"""Read and complete the command lines of Pyserini, of which some consist of several parts."""

from __future__ import annotations

from collections.abc import Sequence

_KNOWN = (
    "--alpha --batch-size --corpus --device --dimension --embeddings --encoded-queries "
    "--encoder --encoder-class --explicit-truncate --fields --fp16 --index --input --l2-norm "
    "--max-length --max-passage --max-passage-delimiter --max-passage-hits --method --metric "
    "--multimodal --output --output-format --pca-model --pooling --prefix --query-prefix --runs "
    "--runtag --shard-id --shard-num --to-faiss --tokenizer --topics --topics-format --use-openai"
).split()
"""Options that are read here, with those that share an abbreviation with them."""


class Part:
    """One part of a command line: a word such as `encoder`, and the options that follow it."""

    def __init__(self, name: str, tokens: Sequence[str]) -> None:
        self.name, self.tokens = name, list(tokens)

    def values(self, option: str) -> list[str] | None:
        """Return what follows an option, spelled out or abbreviated; None if it is not there."""
        found = self._place(option)
        return None if found is None else self._attached(found) + self._following(found)

    def value(self, option: str) -> str | None:
        """Return the one value of an option; None if the option is not there, or has none."""
        values = self.values(option)
        return values[0] if values else None

    def has(self, option: str) -> bool:
        """Whether the option was given."""
        return self._place(option) is not None

    def set(self, option: str, *values: object) -> None:
        """Give an option its values, in the place of earlier ones."""
        found = self._place(option)
        if found is not None:
            del self.tokens[found : found + 1 + len(self._following(found))]
        self.tokens += [option, *map(str, values)]

    def take(self, option: str) -> bool:
        """Remove an option that has no value and is not Pyserini's; say whether it was there."""
        given = option in self.tokens
        self.tokens = [token for token in self.tokens if token != option]
        return given

    def _place(self, option: str) -> int | None:
        places = [
            place
            for place, token in enumerate(self.tokens)
            if option in (token.partition("=")[0], _spelled_out(token))
        ]
        return places[-1] if places else None

    def _attached(self, place: int) -> list[str]:
        _, equals, value = self.tokens[place].partition("=")
        return [value] if equals else []

    def _following(self, place: int) -> list[str]:
        rest = self.tokens[place + 1 :]
        end = next((at for at, token in enumerate(rest) if token.startswith("--")), len(rest))
        return [] if self._attached(place) else rest[:end]


def _spelled_out(token: str) -> str | None:
    """Return the option that a token names; argparse takes any abbreviation that is unique."""
    name = token.partition("=")[0]
    if not name.startswith("--") or len(name) == 2:
        return None
    matches = [name] if name in _KNOWN else [known for known in _KNOWN if known.startswith(name)]
    return matches[0] if len(matches) == 1 else None


def split(arguments: Sequence[str], words: Sequence[str], module: str) -> dict[str, Part]:
    """Cut a command line at the words that begin its parts.

    Args:
        arguments: Of the command.
        words: Of which each has to be there once, in any order; none for a command of one part.
        module: Of Pyserini, for the error.

    Returns:
        Word -> its part; "" is the part before the first word.

    Raises:
        ValueError: A word is missing, or there twice.
    """
    parts = {"": Part("", [])}
    current = parts[""]
    for token in arguments:
        if token not in words:
            current.tokens.append(token)
        elif token in parts:
            raise ValueError(
                f"{module}: the word {token!r} begins a part of the command line and is there "
                f"twice; write a file or folder of that name as ./{token}"
            )
        else:
            current = parts[token] = Part(token, [])
    missing = [word for word in words if word not in parts]
    if missing:
        raise ValueError(
            f"{module}: the part {missing[0]!r} is missing; the command line needs the words "
            f"{', '.join(words)}, each followed by its options"
        )
    return parts


def join(parts: dict[str, Part]) -> list[str]:
    """Return the command line that the parts make."""
    return [
        token
        for part in parts.values()
        for token in ([part.name] if part.name else []) + part.tokens
    ]
