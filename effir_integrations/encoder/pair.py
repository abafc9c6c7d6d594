"""A folder of two encoders, one of queries and one of documents, each run as an `Encoder`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Transformer

from ..files import inside, read_json
from ..model.config_file import check_config, check_tokenizer
from ..model.modeling import STANDALONE_FILE
from ..model.safetensors_files import check_checkpoint
from .call_lock import call_lock
from .encoder import Encoder
from .inference import limit_of_call
from .shortcuts import Shortcuts
from .sources import ROUTES
from .tokenization import cut_to, token_limit
from .transformer import CheckedTransformer


class PairEncoder(Encoder):
    """An `Encoder` whose `encode_query` runs one model, and `encode_document` and `encode` another.

    Each has its own tokenizer, length and head. Prompts are those of the pair, which has one of
    each name. `batch_tokens` and `tokens_encoded` are for both together.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        routes: Any = self.router.sub_modules
        self._towers = {
            route: Encoder(
                modules=list(modules),
                prompts=dict(self.prompts),
                similarity_fn_name=self.similarity_fn_name,
                device=str(self.device),
            )
            for route, modules in routes.items()
        }

    @property
    def router(self) -> Router:
        """The module that holds both."""
        router: Any = self[0]
        return router

    def tower(self, task: str | None = None) -> Encoder:
        """Return the encoder that runs texts of a task: `query`, `document`, or None."""
        return self._towers[str(self.router._resolve_route(task, "text"))]

    def towers(self) -> list[Encoder]:
        """Return all encoders of the pair."""
        return list(self._towers.values())

    def find_shortcuts(self) -> Shortcuts:
        """Try what each encoder may leave out; the pair itself leaves out nothing."""
        for tower in self.towers():
            tower.find_shortcuts()
        return Shortcuts()

    def _inference(self, inputs: list[Any], **kwargs: Any) -> Any:
        tower = self.tower(kwargs.get("task"))
        limit = limit_of_call(kwargs)
        if limit is not None:  # that of a call may be the other one's
            kwargs |= cut_to(tower, min(limit, token_limit(tower) or limit))
        with call_lock(self):
            tower.batch_tokens, before = self.batch_tokens, tower.tokens_encoded
            vectors = tower._inference(inputs, **kwargs)
            self.batch_tokens = tower.batch_tokens
            self.tokens_encoded += tower.tokens_encoded - before
        return vectors

    def _keep_limit(self) -> None:
        """Leave each encoder its own limit."""

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write the folder as `Encoder` does, with the modelling file where it is looked for."""
        super().save(path, *args, **kwargs)
        copy_code(Path(path))


def copy_code(folder: Path) -> bool:
    """Copy the modelling file of a pruned encoder to the root, where Transformers looks for it.

    Args:
        folder: Of a pair that stock Sentence Transformers wrote.

    Returns:
        Whether there is one.
    """
    files = sorted(folder.glob(f"*_0_Transformer/{STANDALONE_FILE}"))
    for path in files[:1]:
        shutil.copyfile(path, folder / STANDALONE_FILE)
    return bool(files)


def load_pair(folder: Path, **options: Any) -> PairEncoder:
    """Load a folder of an encoder of queries and one of documents.

    Args:
        folder: Stock Sentence Transformers or `effir pair` wrote it.
        options: Of the constructor.

    Raises:
        FileNotFoundError: A weight file is missing.
        ValueError: A file is damaged, or it holds something else than two encoders of text.
    """
    types = _types(folder)
    first = [name for name in types if types[name].endswith(f".{Transformer.__name__}")]
    for name in first:
        place = inside(folder, name)
        check_config(place)
        check_tokenizer(place)
        check_checkpoint(place)
    checked = {types[name]: CheckedTransformer for name in first}
    encoder = PairEncoder._load_with_module_classes(str(folder), checked, **options)
    if not all(isinstance(tower[0], Transformer) for tower in encoder.towers()):
        raise ValueError(
            f"an encoder in {folder} does not start with a Transformer module; load it by "
            "SentenceTransformer"
        )
    return encoder


def _types(folder: Path) -> dict[str, str]:
    path = folder / ROUTES
    content = read_json(path, "the routes of a folder of two encoders")
    routes, types = content.get("structure"), content.get("types")
    if not isinstance(routes, Mapping) or not isinstance(types, Mapping):
        raise ValueError(f"{path} lacks structure or types; put back the file as it was written")
    if set(routes) != {"query", "document"}:
        raise ValueError(
            f"{path} has the routes {', '.join(map(str, routes))}, and only query and document can "
            "be loaded here; load it by SentenceTransformer"
        )
    return {str(name): str(kind) for name, kind in types.items()}
