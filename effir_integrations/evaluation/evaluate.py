"""Measure a model on retrieval data: quality, size and speed."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch import nn

from effir_integrations.data.beir import RetrievalData, check_drop_same_id, retrieval_data
from effir_integrations.encoder.search_vectors import inner_product_is_similarity
from effir_integrations.encoder.tokenization import token_limit
from effir_integrations.evaluation.retrieval import check_run_ids, rank, score_queries, write_run
from effir_integrations.evaluation.speed import encode_timed, query_latency
from effir_integrations.extras import import_extra
from effir_integrations.files import folder_bytes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of one model on one data set, and under which settings."""

    model: str
    """Name or folder, as given."""
    data: str
    """Name of the data set."""
    split: str
    """Split of the data set."""
    metrics: dict[str, float]
    """"nDCG@10", "R@100" and "RR@10", each between 0 and 1: the mean over all judged queries."""
    parameters: int | None
    """Parameters of the encoder; it has no language-modelling head. None without an encoder."""
    bytes: int | None
    """Size of all files of the model's folder; of the tensors, for a model given as an object."""
    documents: int
    """Documents searched."""
    queries: int
    """Judged queries that were searched for."""
    documents_per_second: float | None
    """Encoding in batches; in a recipe, indexing as well. None if it was not measured."""
    queries_per_second: float | None
    """Encoding in batches; in a recipe, searching as well. None if it was not measured."""
    query_latency_ms: float | None
    """Median milliseconds to encode one query, one at a time. None if it was not measured."""
    max_length: int | None
    """Tokens a text is cut to; None if the model sets no limit."""
    batch_size: int | None
    """Texts in each batch; None where batches are cut by tokens, as an `Encoder` does."""
    dtype: str
    """Of the weights, such as "float32"; it is the dtype of the arithmetic as well."""
    device: str
    """Where the model ran, such as "cpu" or "cuda:0"."""
    search: str = "exact"
    """What searched the documents: "exact" inner products here, or what a recipe says."""
    non_embedding_parameters: int | None = None
    """Those of the layers: without the tables of tokens and positions, which are only looked up.
    None without an encoder."""
    drops_same_id: bool = False
    """Whether the document of a query's own id was left out of what it finds."""
    ndcg_by_query: dict[str, float] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )
    """nDCG@10 of every judged query by its id, to tell a difference from noise."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, those of single queries left out."""
        fields = dataclasses.asdict(self)
        del fields["ndcg_by_query"]
        return fields


def evaluate(
    model: SentenceTransformer | str | Path,
    data: RetrievalData | str | Path,
    *,
    split: str = "test",
    drop_same_id: str | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    dtype: str = "auto",
    device: str | None = None,
    run_path: Path | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Encode a data set, search it exactly, score the result, and measure size and speed.

    Queries and documents go through `encode_query` and `encode_document`, so the model's prompts
    apply. A score is the inner product of the vectors as the model gives them; a model whose
    similarity is cosine has them normalised first.

    Args:
        model: Folder, hub name or loaded model.
        data: BEIR folder or hub dataset (see `load_beir`), or data that are loaded already.
        split: Judgements to use; loaded data have a split of their own.
        drop_same_id: "yes" leaves the document of a query's own id out of what it finds, "no" keeps
            it, "auto" looks at the judgements (see `RetrievalData.drops_same_id`). None is "auto",
            or what loaded data say.
        max_length: Tokens a text is cut to, at most the model's own limit, which is the default.
        batch_size: Texts in each batch of a stock model; an `Encoder` cuts by tokens.
        dtype: Of a model given by name: "auto", "float32", "float16" or "bfloat16".
        device: Of a model given by name; by default the best one there is.
        run_path: TREC run to write.
        show_progress: Draw progress bars.

    Returns:
        The figures with the settings that they depend on.

    Raises:
        FileNotFoundError: If data or model are not there.
        ValueError: If an argument, a line of the data or the model's similarity cannot be used.
        ImportError: If an optional package is missing.
    """
    if batch_size < 1 or (max_length is not None and max_length < 1):
        raise ValueError(
            f"batch_size={batch_size}, max_length={max_length}; both must be at least 1."
        )
    check_drop_same_id(drop_same_id or "auto")
    check_model(model, dtype, device)
    import_extra("ir_measures")
    data = retrieval_data(data, split, drop_same_id, show_progress=show_progress)
    if run_path is not None:
        check_run_ids([*data.queries, *data.documents])
    loaded = load_model(model, max_length=max_length, dtype=dtype, device=device)
    inner_product_is_similarity(loaded)
    token_limit(loaded, max_length)  # refuses what the model does not take, before the clock starts
    return _measure(loaded, model, data, batch_size, max_length, run_path, show_progress)


def load_model(
    model: SentenceTransformer | str | Path,
    *,
    max_length: int | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> SentenceTransformer:
    """Load a model that is given by name or folder; hand back one that is loaded."""
    if not isinstance(model, str | Path):
        return model
    from effir_integrations.encoder.loading import load

    return load(str(model), device=device, dtype=dtype, max_length=max_length)


def _configuration(model: SentenceTransformer) -> Any:
    return getattr(model.transformers_model, "config", None)


def check_model(model: SentenceTransformer | str | Path, dtype: str, device: str | None) -> None:
    """Refuse what cannot be a model, or settings that it cannot take, without loading it.

    Raises:
        FileNotFoundError: If there is no such model, here or on the hub, or weights are missing.
        ValueError: If `dtype` is unknown, or `dtype` or `device` is given for a loaded model.
    """
    from effir_integrations.encoder.loading import DTYPES
    from effir_integrations.encoder.sources import find_source, read_config

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; choose from {', '.join(DTYPES)}.")
    if not isinstance(model, str | Path):
        if dtype != "auto" or device is not None:
            raise ValueError(
                f"dtype={dtype!r} and device={device!r} are for a model given by name; call "
                "model.to(...) on a loaded one."
            )
    else:
        read_config(find_source(model))


def _measure(
    model: SentenceTransformer,
    source: SentenceTransformer | str | Path,
    data: RetrievalData,
    batch_size: int,
    max_length: int | None,
    run_path: Path | None,
    show_progress: bool,
) -> Evaluation:
    from effir_integrations.encoder.encoder import Encoder

    name, size = model_name(source), model_bytes(model, source)
    queries, documents = list(data.queries.values()), list(data.documents.values())
    latency = query_latency(model, queries, max_length=max_length)
    timed = partial(
        encode_timed,
        model,
        batch_size=batch_size,
        max_length=max_length,
        show_progress=show_progress,
    )
    query_vectors, queries_per_second = timed(queries, kind="query")
    document_vectors, documents_per_second = timed(documents, kind="document")
    run = rank(
        list(data.documents),
        document_vectors,
        list(data.queries),
        query_vectors,
        drop_same_id=data.drops_same_id,
        show_progress=show_progress,
    )
    if run_path is not None:
        write_run(run, run_path, tag=_tag(name))
    by_query = score_queries(data.qrels, run)
    return Evaluation(
        model=name,
        data=data.name,
        split=data.split,
        metrics={metric: fmean(values.values()) for metric, values in by_query.items()},
        ndcg_by_query=by_query["nDCG@10"],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bytes=size,
        documents=len(documents),
        queries=len(queries),
        documents_per_second=documents_per_second,
        queries_per_second=queries_per_second,
        query_latency_ms=1000 * latency,
        max_length=token_limit(model, max_length),
        batch_size=None if isinstance(model, Encoder) else batch_size,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        device=str(model.device),
        non_embedding_parameters=non_embedding_parameters(model),
        drops_same_id=data.drops_same_id,
    )


def non_embedding_parameters(model: nn.Module) -> int:
    """Return the number of parameters that lie in no embedding table."""
    tables = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    return sum(parameter.numel() for parameter in model.parameters() if parameter not in tables)


def model_name(model: SentenceTransformer | str | Path) -> str:
    """Return the name or folder as given, or where a loaded model says it comes from."""
    if isinstance(model, str | Path):
        return str(model)
    return getattr(_configuration(model), "name_or_path", "") or type(model).__name__


def _tag(name: str) -> str:
    return "_".join(Path(name).name.split()) or "run"


def model_bytes(model: SentenceTransformer, source: SentenceTransformer | str | Path) -> int:
    """Sum the files of the model's folder, or the tensors of a loaded model, which may differ."""
    from huggingface_hub import snapshot_download

    from effir_integrations.encoder.sources import config_place, find_source
    from effir_integrations.model.peft_folder import find_adapter

    # of an adapter, most lies in the folder of its base
    if not isinstance(source, str | Path) or find_adapter(config_place(find_source(source))):
        tensors = model.state_dict().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    folder = Path(find_source(source))
    if folder.is_dir():
        return folder_bytes(folder)
    # A short name such as "all-MiniLM-L6-v2" is completed while loading.
    name = getattr(_configuration(model), "name_or_path", "") or str(source)
    return folder_bytes(Path(snapshot_download(name, local_files_only=True)))
