"""Encode a corpus on a Ray cluster: JSON Lines or Parquet in, Parquet shards out."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..encoder.model_files import identify_files
from ..encoder.sources import find_architecture
from ..extras import import_extra
from ..fields import check_fields
from .partition_encoder import PartEncoder
from .partitions import Part, absolute, corpus_files, plan_parts
from .ray_session import cluster, progress
from .shards import ClusterOutput

_SETTINGS = (
    "role",
    "prompt",
    "normalize_embeddings",
    "truncate_dim",
    "max_length",
    "precision",
    "shard_bytes",
)
_ERROR_LINE = re.compile(r"(?!ray\.)[\w.]+(Error|Exception): ")
_STOPPED = "an actor failed ({}); what was written stays, and the same call resumes from it"
_PARTS_AT_ONCE = 2  # of an actor: one is read or written while the other is encoded


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How to encode a corpus on a cluster.

    A run that is gone on from may differ in `window`, `actors`, `gpus_per_actor` and
    `cpus_per_actor`, and in nothing else.
    """

    role: str = "document"
    """Whose prompt goes in front: `document` or `query`."""
    prompt: str | None = None
    """Text to put in front instead."""
    normalize_embeddings: bool = False
    """Scale to unit length, where the model does not do so itself."""
    truncate_dim: int | None = None
    """Keep only so many leading dimensions."""
    max_length: int | None = None
    """In tokens; None keeps the model's own."""
    precision: str | None = None
    """As of `load`; None computes in the dtype of the checkpoint."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub."""
    shard_bytes: int = 1 << 25
    """Bytes of corpus that make one shard; two shards are made again where an actor is killed."""
    window: int = 4096
    """Texts that are encoded together and held as vectors by an actor; rows of a row group."""
    actors: int | None = None
    """Copies of the model; None takes as many as the cluster has room for when the run starts."""
    gpus_per_actor: float | None = None
    """None takes one where the cluster has GPUs."""
    cpus_per_actor: int = 1
    """Processors to reserve for, and threads of, each actor."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: A value is out of its range.
        """
        check_fields(self)
        if self.role not in ("document", "query"):
            raise ValueError(f"role={self.role!r} must be document or query")
        for name in ("shard_bytes", "window", "cpus_per_actor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("truncate_dim", "max_length", "actors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1, or None")
        if self.gpus_per_actor is not None and self.gpus_per_actor < 0:
            raise ValueError(f"gpus_per_actor={self.gpus_per_actor} must not be negative")


@dataclass(frozen=True, kw_only=True)
class ClusterEncoding:
    """What lies in the output folder."""

    out: str
    """The folder, absolute."""
    texts: int
    """Rows of all shards."""
    dimension: int
    """Of every vector."""
    shards: int
    """Files `part-*.parquet` with the columns `docid` (string) and `vector` (list of float32)."""
    found: int
    """Shards that an earlier run had written."""


def encode_on_ray(
    model: str | Path,
    corpus: str,
    out: str,
    *,
    address: str | None = None,
    config: ClusterConfig | None = None,
    force: bool = False,
    show_progress: bool = False,
) -> ClusterEncoding:
    """Encode a corpus with one copy of the model per actor of a Ray cluster.

    The corpus is cut into parts, always in the same way. An actor reads a part, encodes it and
    writes one shard of a fixed name, which appears as a whole or not at all; so nothing is lost or
    doubled where an actor or the driver is killed, and the same call resumes with the shards that
    are missing. No text or vector passes through the driver.

    Args:
        model: Folder that every machine sees, or name on the hub.
        corpus: As of `corpus_files`.
        out: Folder that every machine sees, local or s3://, gs://, ...
        address: None uses the cluster that this process is connected to, or starts one on this
            machine and ends it; "auto", or that of a cluster that runs.
        config: None takes the defaults.
        force: Start over, replacing shards of other settings.
        show_progress: Show Ray's bars, and its messages.

    Raises:
        ImportError: Ray is not installed.
        FileNotFoundError: Model or corpus is not there.
        FileExistsError: `out` holds something else.
        ValueError: The corpus has a bad line or row, `out` was begun with other settings, or the
            cluster has no room for an actor.
        RuntimeError: An actor failed.
    """
    ray = import_extra("ray", "ray")
    import_extra("ray.data", "ray")
    config = config or ClusterConfig()
    files = corpus_files(corpus, leave_out=absolute(out))
    find_architecture(model, revision=config.revision)
    source = identify_files(model, config.revision)
    parts = plan_parts(files, config.shard_bytes)
    if not parts:
        raise ValueError(f"{corpus} is empty; give a corpus that holds texts")
    manifest = {
        **{field: getattr(config, field) for field in _SETTINGS},
        "model": source.identity,
        "files": [asdict(file) for file in files],
        "parts": len(parts),
    }
    output = ClusterOutput.open(out, manifest, force=force)
    missing = output.missing()
    if missing:
        settings = replace(config, revision=source.revision)
        processors = (config.actors or 1) * config.cpus_per_actor
        with cluster(ray, address, processors, show_progress):
            arguments = (source.name, settings, output.folder)
            _encode_parts(ray, arguments, [parts[number] for number in missing], show_progress)
    texts, dimension = output.finish()
    return ClusterEncoding(
        out=output.folder,
        texts=texts,
        dimension=dimension,
        shards=len(parts),
        found=len(parts) - len(missing),
    )


def _encode_parts(
    ray: Any, arguments: tuple[Any, ...], parts: list[Part], show_progress: bool
) -> None:
    config: ClusterConfig = arguments[1]
    actors, gpus = _actors(ray.cluster_resources(), config)
    with progress(ray.data.DataContext.get_current(), show_progress):
        rows = [asdict(part) for part in parts]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            PartEncoder,
            fn_constructor_args=arguments,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=config.cpus_per_actor,
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=actors,
                initial_size=actors,
                max_concurrent_calls_per_actor=_PARTS_AT_ONCE,
                max_tasks_in_flight_per_actor=_PARTS_AT_ONCE + 1,
                enable_true_multi_threading=True,
            ),
        )
        try:
            for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    _check(**row)
        except ray.exceptions.RayError as error:
            raise RuntimeError(_STOPPED.format(_cause(str(error)))) from error


def _check(bad_input: bool, failure: str) -> None:
    if bad_input:
        raise ValueError(failure)
    if failure:
        raise RuntimeError(_STOPPED.format(failure))


def _cause(text: str) -> str:
    """Return the line that says what failed, of the traceback that Ray makes of an error."""
    lines = [line.strip() for line in text.strip().splitlines()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or ["no reason given"])[-1]


def _actors(resources: dict[str, float], config: ClusterConfig) -> tuple[int, float]:
    """Return how many actors to start and the GPUs of each."""
    gpus = config.gpus_per_actor
    if gpus is None:
        gpus = 1.0 if resources.get("GPU", 0) else 0.0
    room = int(resources.get("CPU", 0) // config.cpus_per_actor)
    if gpus:
        room = min(room, int(resources.get("GPU", 0) / gpus))
    if room < 1:
        raise ValueError(
            f"no actor of {config.cpus_per_actor} CPUs and {gpus:g} GPUs fits a cluster of "
            f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs; ask for less"
        )
    return config.actors or room, gpus
