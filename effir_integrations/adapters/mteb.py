"""MTEB: models for `mteb.evaluate`, and BEIR folders as tasks of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.beir import RetrievalData, retrieval_data
from ..data.hub import HUB_NAME
from ..data.text import clean_text
from ..encoder.mini import MINI
from ..extras import import_extra
from .lazy_encoder import LazyEncoder

import_extra("mteb", "mteb")

import mteb  # noqa: E402
from datasets import Dataset  # noqa: E402
from mteb import cli  # noqa: E402
from mteb.abstasks import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import ModelMeta  # noqa: E402
from mteb.models.abs_encoder import AbsEncoder  # noqa: E402
from mteb.types import PromptType  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer


class EffirModel(AbsEncoder):
    """What `mteb.evaluate` takes; `mteb_model` makes one of a folder or a hub name.

    Args:
        encoder: Loaded when MTEB first asks about it.
        name: OWNER/NAME to list results under, or anything such a name can be made of.
    """

    def __init__(self, encoder: LazyEncoder, name: str | None = None) -> None:
        self.encoder = encoder
        self.name = _listed_name(name or encoder.name)

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:  # type: ignore[override]
        """What MTEB records of the model, and finds its results by; loads the weights."""
        model, lazy = self.encoder.encoder, self.encoder
        transformer = model.transformers_model
        words: Any = transformer.get_input_embeddings() if transformer is not None else None
        facts: dict[str, Any] = {
            **dict.fromkeys(_UNKNOWN),
            "loader": None,
            "name": self.name,
            # of weights and settings: no two models share results, whatever their folders are named
            "revision": lazy.vectors_identity(),
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "n_embedding_parameters": None if words is None else words.weight.numel(),
            "memory_usage_mb": sum(x.nbytes for x in model.state_dict().values()) / 2**20,
            "max_tokens": lazy.limit,
            "embed_dim": lazy.dimension,
            "open_weights": True,
            "framework": ["Sentence Transformers", "PyTorch"],
            "similarity_fn_name": model.similarity_fn_name,
            "use_instructions": any(model.prompts.values()),
        }
        # MTEB's first 2.x releases have fewer fields, and refuse others
        return ModelMeta(**{name: x for name, x in facts.items() if name in ModelMeta.model_fields})

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return the vectors of the texts of a data loader, (texts, dimension) float32.

        The prompt is the one that the model has for this task or kind of task by MTEB's naming, as
        in `SciFact-query` or `STS`; else that of `encode_query` or `encode_document`; in tasks that
        tell neither apart, the model's default.

        Raises:
            ValueError: Vectors in other dtypes are asked for.
        """
        if kwargs.get("precision") not in (None, "float32"):
            raise ValueError(
                f"precision={kwargs['precision']!r} asks for quantised vectors, which this adapter "
                "does not give; evaluate the loaded model itself, or leave it out of encode_kwargs"
            )
        texts = [text for batch in inputs for text in batch["text"]]
        return self.encoder.embed(
            texts,
            "query" if prompt_type == PromptType.query else "document",
            prompt=self._prompt(task_metadata, prompt_type),
            show_progress=kwargs.get("show_progress_bar", True),
        )

    def _prompt(self, task: TaskMetadata, prompt_type: PromptType | None) -> str | None:
        model = self.encoder.encoder
        self.model_prompts = {name: text or "" for name, text in model.prompts.items()}
        name = self.get_prompt_name(task, prompt_type)
        if name is None and prompt_type is not None:
            return None
        name = name or model.default_prompt_name
        return self.model_prompts.get(name, "") if name else ""


_UNKNOWN = (
    "release_date", "languages", "license", "public_training_code", "public_training_data",
    "training_datasets",
)  # fmt: skip


def mteb_model(
    model: str | Path | SentenceTransformer,
    *,
    name: str | None = None,
    device: str | None = None,
    precision: str | None = "auto",
    max_length: int | None = None,
    truncate_dim: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> EffirModel:
    """Return a model for `mteb.evaluate`, full or pruned, by its folder, hub name or object.

    Args:
        model: Loaded when MTEB first asks about it.
        name: OWNER/NAME to list results under; None makes one of the hub name or the folder.
        device: As in torch; None takes an accelerator where there is one.
        precision: As of `load`; None takes the dtype of the checkpoint.
        max_length: Tokens a text is cut to, at most the model's own limit; None takes that.
        truncate_dim: Leading dimensions of the vectors that are kept; None keeps all.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run modelling code that lies in the folder.

    Raises:
        FileNotFoundError: There is no such model folder, or a weight file is missing.
        ValueError: A setting is out of range, or the name is not of the form OWNER/NAME.
    """
    if name is not None and not HUB_NAME.fullmatch(name):
        raise ValueError(f"name={name!r} must be of the form OWNER/NAME, such as me/smaller")
    encoder = LazyEncoder(
        model,
        device=device,
        precision=precision,
        max_length=max_length,
        truncate_dim=truncate_dim,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    return EffirModel(encoder, name)


def _listed_name(name: str) -> str:
    if HUB_NAME.fullmatch(name) and not Path(name).exists():
        return name
    return f"local/{_plain(Path(name).resolve().name) or 'model'}"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


class BeirTask(AbsTaskRetrieval):
    """A BEIR data set that lies on this machine; made by `beir_task`."""

    def __init__(self, data: RetrievalData) -> None:
        self.data = data
        self.ignore_identical_ids = data.drops_same_id
        super().__init__()

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Hand the data over; titles are in front of the texts already."""
        if self.data_loaded:
            return
        data = self.data
        split: Any = {
            "corpus": _dataset(data.documents),
            "queries": _dataset({**dict.fromkeys(data.qrels, _NO_TEXT), **data.queries}),
            "relevant_docs": {query: _judged(data, query) for query in data.qrels},
            "top_ranked": None,
        }
        self.dataset = {"default": {self.data.split: split}}
        self.data_loaded = True


_NO_TEXT = "no text"
_NOWHERE = "(not in the corpus)"


def _judged(data: RetrievalData, query: str) -> dict[str, int]:
    """Return the judgements of a query, so that MTEB counts each that we count.

    It leaves queries out of its mean for which there is no text, or nothing relevant. These count
    nothing, here by a relevant document that cannot be found.
    """
    judged = data.qrels[query] if query in data.queries else {}
    return dict(judged) if any(x > 0 for x in judged.values()) else {**judged, _NOWHERE: 1}


def _dataset(texts: dict[str, str]) -> Dataset:
    columns = {"id": list(texts), "text": [clean_text(text) for text in texts.values()]}
    return Dataset.from_dict(columns)


def beir_task(
    data: RetrievalData | str | Path,
    split: str = "test",
    *,
    drop_same_id: str | None = None,
    languages: Sequence[str] = ("eng-Latn",),
) -> BeirTask:
    """Return a BEIR folder as a retrieval task of MTEB, which needs no hub.

    nDCG@10 is the main score.

    Args:
        data: BEIR folder, hub data set, or data that are loaded already.
        split: Judgements to use; loaded data have a split of their own.
        drop_same_id: As in `evaluate`.
        languages: Of the texts, as ISO 639-3 and ISO 15924 codes.

    Raises:
        FileNotFoundError: Nothing readable is there, or the split is not.
        ValueError: A line cannot be used, or `drop_same_id` is not known.
    """
    data = retrieval_data(data, split, drop_same_id)
    metadata = _task_metadata(data, languages)
    # MTEB looks for the metadata of a task on its class
    kind: type[BeirTask] = type(BeirTask.__name__, (BeirTask,), {"metadata": metadata})
    return kind(data)


def main() -> None:
    """Run MTEB's command line, to which a model folder is a model as well.

    MTEB looks models up in its own registry and on the hub alone.
    """
    stock = mteb.get_model

    def get_model(
        model_name: str, revision: str | None = None, device: Any = None, **options: Any
    ) -> Any:
        if model_name == MINI or Path(model_name).is_dir():
            # the command line takes a number
            place = f"cuda:{device}" if isinstance(device, int) else device
            return mteb_model(model_name, device=place)
        return stock(model_name, revision, device, **options)

    mteb.get_model = get_model
    try:
        cli.main()
    finally:
        mteb.get_model = stock


def _task_metadata(data: RetrievalData, languages: Sequence[str]) -> TaskMetadata:
    plain = _plain(data.name.rpartition("/")[2]) or "data"
    content = json.dumps([data.documents, data.queries, data.qrels, data.split, data.drops_same_id])
    digest = hashlib.sha256(content.encode()).hexdigest()
    prompt: Any = {"query": AbsTaskRetrieval.abstask_prompt}
    return TaskMetadata(
        # kept results are found by this name alone, also after the data have changed
        name=f"{plain}-{digest[:8]}",
        description=f"Retrieval on {data.name}, split {data.split}.",
        dataset={"path": f"local/{plain}", "revision": digest},
        type="Retrieval",
        category="t2t",
        eval_splits=[data.split],
        eval_langs=list(languages),
        main_score="ndcg_at_10",
        prompt=prompt,
    )


if __name__ == "__main__":
    main()
