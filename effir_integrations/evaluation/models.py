"""The models that are measured: found, loaded, and how large they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from effir_integrations.files import folder_bytes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


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
    from effir_integrations.encoder.sources import find_source, is_pair, read_config

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; choose from {', '.join(DTYPES)}.")
    if not isinstance(model, str | Path):
        if dtype != "auto" or device is not None:
            raise ValueError(
                f"dtype={dtype!r} and device={device!r} are for a model given by name; call "
                "model.to(...) on a loaded one."
            )
    elif not is_pair(model):
        read_config(find_source(model))


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


def model_bytes(model: SentenceTransformer, source: SentenceTransformer | str | Path) -> int:
    """Sum the files of the model's folder, or the tensors of a loaded model, which may differ."""
    from huggingface_hub import snapshot_download

    from effir_integrations.encoder.sources import config_place, find_encoder
    from effir_integrations.model.peft_folder import find_adapter

    # of an adapter, most lies in the folder of its base
    if not isinstance(source, str | Path) or find_adapter(config_place(find_encoder(source))):
        tensors = model.state_dict().values()
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    folder = Path(find_encoder(source))
    if folder.is_dir():
        return folder_bytes(folder)
    # A short name such as "all-MiniLM-L6-v2" is completed while loading.
    name = getattr(_configuration(model), "name_or_path", "") or str(source)
    # several encoders together are read from where they were downloaded to
    place = name if Path(name).is_dir() else snapshot_download(name, local_files_only=True)
    return folder_bytes(Path(place))
