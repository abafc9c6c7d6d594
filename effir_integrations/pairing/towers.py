"""What two encoders must have in common to stand side by side, and which prompts each keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.util import import_module_class
from torch import nn

from ..data.text import ROLE_PROMPTS
from ..encoder.encoder import Encoder, role_prompt, transformer_model
from ..encoder.sources import find_source, read_config, transformer_folder
from ..files import read_json
from ..model.config_file import read_modules
from ..model.families import find, is_causal, is_stock
from ..model.peft_folder import find_adapter

_SETTINGS = "config_sentence_transformers.json"
_STOCK = "sentence_transformers."


@dataclass(frozen=True, kw_only=True)
class Tower:
    """What is known of an encoder beside its transformer."""

    name: str
    """Folder, or name on the hub."""
    dimension: int | None
    """Of a vector."""
    head: tuple[str, ...]
    """The modules behind the transformer, each with its settings."""
    similarity: str
    """How its vectors are compared."""
    prompts: dict[str, str]
    """Name -> text."""
    default_prompt_name: str | None
    model_type: str
    """Of the transformer's config."""

    def prompt(self, role: str) -> str:
        """Return what `encode_query` or `encode_document` puts in front."""
        return role_prompt(cast("Any", self), role)


def tower_of(encoder: Encoder, name: str | Path) -> Tower:
    """Describe an encoder that is loaded."""
    first, *head = encoder
    return Tower(
        name=str(name),
        dimension=_dimension([first, *head]),
        head=_described(head),
        similarity=str(encoder.similarity_fn_name),
        prompts={key: text or "" for key, text in encoder.prompts.items()},
        default_prompt_name=encoder.default_prompt_name,
        model_type=transformer_model(encoder).config.model_type,
    )


def tower_on_disk(name: str | Path) -> Tower | None:
    """Describe an encoder by its folder, before its weights are read.

    Returns:
        None where that needs more: of a name on the hub, an adapter, modules of others.

    Raises:
        FileNotFoundError: It is no model folder, or a weight file is missing.
        ValueError: It is no encoder of one tower, or a file is damaged.
    """
    folder = Path(find_source(name))
    if not folder.is_dir() or find_adapter(transformer_folder(folder)) is not None:
        return None
    settings = _settings(folder)
    modules = read_modules(folder) if (folder / "modules.json").is_file() else []
    if modules and not modules[0]["type"].endswith(".Transformer"):
        raise ValueError(
            f"{name} starts with {modules[0]['type'].rpartition('.')[2]} and not with a "
            "Transformer module; give an encoder of one tower"
        )
    if not all(module["type"].startswith(_STOCK) for module in modules):
        return None
    config = read_config(str(folder))
    find(config)
    head = [_loaded(folder, module) for module in modules[1:]]
    if not modules:  # as `load` makes an encoder of it
        mode = "lasttoken" if is_causal(config) else "mean"
        head = [Pooling(config.hidden_size, pooling_mode=mode), Normalize()]
    return Tower(
        name=str(name),
        dimension=_dimension(head) or config.hidden_size,
        head=_described(head),
        similarity=settings.get("similarity_fn_name") or "cosine",
        # every Sentence Transformers model has these two names
        prompts={"query": "", "document": "", **_texts(settings.get("prompts") or {})},
        default_prompt_name=settings.get("default_prompt_name"),
        model_type=config.model_type,
    )


def check_one_space(query: Tower, document: Tower, *, mapped: bool = False) -> None:
    """Refuse two encoders whose vectors cannot be compared.

    A linear map at the end of the query encoder is allowed: `distill` puts one behind a model that
    follows a teacher of another dimension.

    Args:
        query: The encoder of queries.
        document: The encoder of documents.
        mapped: Whether a map from the one's vectors to the other's will be solved for, which makes
            up for another dimension and another head.

    Raises:
        ValueError: Dimension, head or similarity differ.
    """
    unlike = None if mapped else unlike_spaces(query, document)
    if unlike is not None:
        raise ValueError(unlike)
    if query.similarity != document.similarity:
        raise ValueError(
            f"{query.name} compares vectors by {query.similarity} and {document.name} by "
            f"{document.similarity}; set one similarity_fn_name in both {_SETTINGS}"
        )
    if mapped and document.similarity != "cosine" and not _ends_in_unit_vectors(document):
        raise ValueError(
            f"{document.name} compares vectors by {document.similarity}, and they are not of unit "
            "length as those behind a map are; leave the map out"
        )


def unlike_spaces(query: Tower, document: Tower) -> str | None:
    """Say why vectors of two encoders cannot be compared as they are, or None where they can."""
    if query.dimension != document.dimension:
        return (
            f"{query.name} gives vectors of {query.dimension} dimensions and {document.name} of "
            f"{document.dimension}, which cannot be compared; give a query encoder that was made "
            "from the document encoder, or map the one to the other (--map ridge)"
        )
    if query.head != document.head and not _differ_by_a_map(query.head, document.head):
        return (
            f"behind the transformer of {query.name} stands {_unlike(query.head, document.head)}, "
            f"behind that of {document.name} {_unlike(document.head, query.head)}; give a query "
            "encoder that was made from the document encoder, or distilled from it"
        )
    return None


def _ends_in_unit_vectors(tower: Tower) -> bool:
    return bool(tower.head) and tower.head[-1].startswith("Normalize(")


def check_code(query: Tower, document: Tower) -> None:
    """Refuse two encoders that each need a modelling file, where a folder has room for one.

    Raises:
        ValueError: They do.
    """
    kinds = {x.model_type for x in (query, document) if not is_stock(x.model_type)}
    if len(kinds) > 1:
        raise ValueError(
            f"{query.name} and {document.name} are pruned models of two families, and a folder "
            "holds the modelling file of one; give encoders of one family"
        )


def _differ_by_a_map(query: Sequence[str], document: Sequence[str]) -> bool:
    """Say whether a linear map is all that a query encoder has more; poolings may differ then."""
    maps = [x for x in query if x.startswith("Dense(") and "Identity" in x and x not in document]
    left, other = ([x for x in head if not x.startswith("Pooling(")] for head in (query, document))
    return len(maps) == 1 and [x for x in left if x not in maps] == other


def pair_prompts(query: Tower, document: Tower) -> tuple[dict[str, str], str | None]:
    """Return the prompts of a pair, and the name of the default one.

    A folder has one dictionary of them. Prompts of queries come from the query encoder, those of
    documents from the document encoder, and others from either.

    Raises:
        ValueError: Another name has two texts, or plain `encode` would take a query's.
    """
    others = {
        name: text for name, text in query.prompts.items() if name not in ROLE_PROMPTS["document"]
    }
    own = {
        name: text for name, text in document.prompts.items() if name not in ROLE_PROMPTS["query"]
    }
    for name in sorted(others.keys() & own.keys()):
        if others[name] != own[name]:
            raise _two_texts(name, query, others[name], document, own[name])
    prompts = {
        **others,
        **own,
        "query": query.prompt("query"),
        "document": document.prompt("document"),
    }
    default = document.default_prompt_name
    if default is not None and prompts[default] != document.prompts[default]:
        raise _two_texts(default, query, prompts[default], document, document.prompts[default])
    return prompts, default


def _two_texts(name: str, query: Tower, first: str, document: Tower, second: str) -> ValueError:
    return ValueError(
        f"the prompt {name!r} is {first!r} in {query.name} and {second!r} in {document.name}, and "
        f"a pair holds one; rename or remove it in one {_SETTINGS}"
    )


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / _SETTINGS
    expected = "settings of a Sentence Transformers folder"
    settings = read_json(path, expected) if path.is_file() else {}
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(
            f"{folder} is a {kind}, which does not give one vector for each text; give a "
            "SentenceTransformer"
        )
    return settings


def _texts(prompts: dict[str, Any]) -> dict[str, str]:
    return {name: text or "" for name, text in prompts.items()}


def _loaded(folder: Path, module: dict[str, Any]) -> nn.Module:
    kind: Any = import_module_class(module["type"], str(folder))
    made: nn.Module = kind.load(str(folder), subfolder=module["path"], local_files_only=True)
    return made


def _dimension(modules: Sequence[nn.Module]) -> int | None:
    for module in reversed(modules):
        known: Any = getattr(module, "get_embedding_dimension", None)
        if callable(known) and (dimension := known()) is not None:
            return int(dimension)
    return None


def _described(modules: Sequence[nn.Module]) -> tuple[str, ...]:
    return tuple(f"{type(module).__name__}({_arguments(module)})" for module in modules)


def _arguments(module: Any) -> str:
    settings = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))


def _unlike(head: Sequence[str], other: Sequence[str]) -> str:
    """Name the modules of a head, or, where these are the same, those whose settings differ."""
    names, others = ([x.partition("(")[0] for x in modules] for modules in (head, other))
    if names != others:
        return ", ".join(names) or "no module"
    return ", ".join(x for x in head if x not in other)
