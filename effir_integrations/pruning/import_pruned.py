"""Take over a checkpoint whose sublayers another tool dropped, as LLM-Drop and EffiR write them.

Their config.json lists the layers that lost an MLP or an attention (`drop_mlp_list`,
`drop_attn_list`) and names modelling code of its own, which is not run here: the layers that are
left are those of the family's class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ..encoder.encoder import Encoder
from ..encoder.folder import save
from ..encoder.history import history_of
from ..encoder.loading import load
from ..encoder.peft_merge import merge
from ..encoder.sources import transformer_folder
from ..files import claimed, read_json
from ..model.apply import apply
from ..model.families import Architecture, find
from ..model.identity import BaseIdentity
from ..model.modeling import model_class, pruned_config
from ..model.peft_folder import Adapter, find_adapter
from ..model.plan import PruningPlan
from ..model.safetensors_files import check_checkpoint
from ..model.surgery import drop_attention, drop_mlp, dropped_attention, mlp_widths
from ..model.weights import check_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LISTS = {"mlp": "drop_mlp_list", "attention": "drop_attn_list"}
"""What went -> the setting of config.json that lists its layers."""
_FOREIGN = (*LISTS.values(), "auto_map", "architectures")
_PICKLED = (".pth", ".pt", ".bin")


def import_pruned(
    source: str | Path,
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    pooling: str | None = None,
    prompts: Mapping[str, str] | None = None,
    force: bool = False,
) -> Encoder:
    """Write a checkpoint with dropped sublayers as an ordinary Sentence Transformers folder.

    Args:
        source: Folder whose config.json has `drop_mlp_list` or `drop_attn_list`: numbers of layers,
            or one truth value a layer. Tensors of the dropped sublayers may be there or not.
        out: Folder to write; must be new or empty unless `force`.
        adapter: Folder of a LoRA adapter that was trained on it, to be merged; its tokenizer, if it
            has one, takes the place of the source's.
        pooling: As in `load`; None takes the last token of a causal model, the mean of others.
        prompts: Name -> text put in front, such as query and document.
        force: Replace what is there, at the end and in one step.

    Returns:
        The encoder as loaded from the written folder.

    Raises:
        FileExistsError: `out` holds something and `force` was not given, or files of others.
        FileNotFoundError: The source, its config or its weights are not there.
        ImportError: An adapter is given and peft is not installed.
        RuntimeError: The written folder gives other vectors, or the merged adapter does.
        ValueError: The lists are missing or do not fit the layers; a tensor is missing or is one
            too many; the adapter is not of this base, or brings pickled embeddings.
    """
    source, out = Path(source), Path(out)
    content, config = _configs(source)
    places = [source, *([] if adapter is None else [Path(adapter)])]
    with claimed(out, force=force, sources=places):
        check_checkpoint(source)
        gone = {kind: _layers(content, kind, config.num_hidden_layers) for kind in LISTS}
        found = None if adapter is None else _adapter_at(adapter)
        model = _without(source, config, gone)
        if found is not None:
            model = merge(model, found)
        record = {
            "stage": "import",
            "config": {"drop_mlp": gone["mlp"], "drop_attention": gone["attention"]},
            "adapter": None if adapter is None else str(adapter),
        }
        plan = PruningPlan(base=BaseIdentity.of(model, str(source)), made_by=(record,))
        with TemporaryDirectory() as temporary:
            apply(model, plan).save_pretrained(temporary)
            _tokenizer(source, adapter).save_pretrained(temporary)
            given = None if prompts is None else dict(prompts)
            encoder = load(temporary, device="cpu", pooling=pooling, prompts=given)
            return save(encoder, history_of(plan), out, force=force)


def _configs(source: Path) -> tuple[dict[str, Any], Any]:
    """Return the config as it stands, and that of the family's own class."""
    place = transformer_folder(source) / "config.json"
    if not place.is_file():
        raise FileNotFoundError(
            f"{source} holds no config.json; give the folder of the checkpoint (hf download NAME "
            "--local-dir FOLDER fetches one)"
        )
    content = read_json(place, "the config of a model")
    if not any(content.get(name) for name in LISTS.values()):
        raise ValueError(
            f"the config of {source} names no dropped layers ({' or '.join(LISTS.values())}); a "
            "plain model needs no import, and is compressed as it is"
        )
    values = {name: value for name, value in content.items() if name not in _FOREIGN}
    config = AutoConfig.for_model(**values)
    config.name_or_path = str(source)
    find(config)
    return content, config


def _layers(content: Mapping[str, Any], kind: str, layers: int) -> list[int]:
    """Return the numbers of the layers that a list names."""
    name = LISTS[kind]
    listed = content.get(name) or []
    flags = isinstance(listed, list) and bool(listed) and all(type(x) is bool for x in listed)
    if flags and len(listed) == layers:
        return [layer for layer, dropped in enumerate(listed) if dropped]
    numbers = isinstance(listed, list) and all(type(x) is int for x in listed)
    if not numbers or len({*listed}) < len(listed) or not {*listed} <= {*range(layers)}:
        raise ValueError(
            f"{name}={listed!r:.80} does not fit a model of {layers} layers: it must list numbers "
            f"from 0 to {layers - 1}, each once, or {layers} truth values; put the config and the "
            "weights of one model together"
        )
    return sorted(listed)


def _adapter_at(adapter: str | Path) -> Adapter:
    """Return the adapter in a folder, unless its embeddings could only be read by unpickling them.

    Raises:
        ValueError: There are such files, or no adapter.
    """
    found = find_adapter(adapter)
    if found is None:
        raise ValueError(f"{adapter} holds no adapter_config.json; give the folder of the adapter")
    pickled = sorted(x for x in Path(adapter).rglob("*") if x.suffix in _PICKLED)
    if pickled:
        raise ValueError(
            f"{adapter} brings {pickled[0].relative_to(adapter)}, which is pickled, and reading a "
            "pickle can run any code; where you trust its author, put the embeddings into the base "
            "yourself, save that with its tokenizer, delete the file, and import again"
        )
    return found


def _without(source: Path, config: Any, gone: Mapping[str, list[int]]) -> PreTrainedModel:
    """Load the checkpoint into the class that has no place for what was dropped."""
    architecture = find(config)
    with torch.device("meta"):
        shape = AutoModel.from_config(config)
    if gone["attention"]:
        drop_attention(shape, architecture, gone["attention"])
    if gone["mlp"]:
        drop_mlp(shape, architecture, gone["mlp"])
    left = pruned_config(
        shape.config,
        mlp_widths=mlp_widths(shape, architecture),
        dropped_attention=dropped_attention(shape, architecture),
    )
    loaded: Any = model_class(architecture.family).from_pretrained(
        source,
        config=left,
        dtype="auto",
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    model, report = loaded
    of_dropped = _of_dropped(architecture, gone)
    unexpected = [x for x in report["unexpected_keys"] if not any(part in x for part in of_dropped)]
    check_report(model, {**report, "unexpected_keys": unexpected}, str(source))
    made: PreTrainedModel = model.eval()
    return made


def _of_dropped(architecture: Architecture, gone: Mapping[str, list[int]]) -> tuple[str, ...]:
    """Return what stands in the names of tensors that nothing reads any more."""
    paths = {"attention": architecture.without_attention, "mlp": architecture.without_mlp}
    return tuple(
        f"{architecture.layers}.{layer}.{path}."
        for kind, layers in gone.items()
        for layer in layers
        for path in paths[kind]
    )


def _tokenizer(source: Path, adapter: str | Path | None) -> Any:
    own = adapter is not None and (Path(adapter) / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(adapter if own else source)
