"""A shape that the family's own class can hold is written as that class, and computes the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from fresh import ABSENT
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny import FAMILIES, KINDS, ON_DISK, in_full, save_bare, tiny_model

from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model import apply as apply_module
from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import identity_on_disk
from effir_integrations.model.stock import Shape, why_not_stock
from effir_integrations.pruning.export import export, export_from_disk

PRE_NORM = [family for family in FAMILIES if not ARCHITECTURES[family].mlp_sum]
# windows so short that a layer of the wrong kind gives other vectors
WINDOWS = {
    "mistral": {"sliding_window": 4},
    "ministral3": {"sliding_window": 4},
    "smollm3": {"use_sliding_window": True, "sliding_window": 4},
    "gemma2": {"sliding_window": 4},
    "gemma3_text": {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
}
BLOCKS = {"last": (3,), "middle": (1,)}
NARROW = {layer: torch.arange(layer, 48, 2)[:20] for layer in range(4)}
TEXTS = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16", "w9", "w3 " * 25]
SCRIPT = f"""
import json, sys
{ABSENT}
import numpy as np
from sentence_transformers import SentenceTransformer
for folder in json.loads(sys.argv[1]):
    model = SentenceTransformer(folder, device="cpu")
    kind = type(model[0].model)
    assert kind.__module__.startswith("transformers.models."), kind
    np.save(folder + ".npy", model.encode(json.loads(sys.argv[2])))
"""


def plans(base: BaseIdentity, blocks: dict[str, tuple[int, ...]]) -> dict[str, PruningPlan]:
    """Return the plans that leave a plain smaller model."""
    made = {
        name: PruningPlan(base=base, drop_mlp=layers, drop_attention=layers)
        for name, layers in blocks.items()
    }
    made["uniform"] = PruningPlan(base=base, neurons=NARROW)
    if blocks:
        kept = {layer: NARROW[layer] for layer in (0, 2, 3)}
        made["narrower, too"] = PruningPlan(
            base=base, drop_mlp=(1,), drop_attention=(1,), neurons=kept
        )
    return made


def written(family: str, folder: Path, blocks, monkeypatch) -> list[tuple[Path, Path]]:
    """Export every plan twice: as it is, and as a class of ours."""
    bare = save_bare(family, folder / "bare", **WINDOWS.get(family, {}))
    whole = load(bare)
    base = BaseIdentity.of(transformer_model(whole))
    pairs = []
    for name, plan in plans(base, blocks).items():
        stock, ours = folder / name / "stock", folder / name / "ours"
        export(copy.deepcopy(whole), plan, stock)
        with monkeypatch.context() as patch:
            patch.setattr(apply_module, "why_not_stock", lambda *_: "it is not to be")
            export(copy.deepcopy(whole), plan, ours)
        pairs.append((stock, ours))
    return pairs


@in_full()
def test_a_process_without_this_package_encodes_the_same(family, tmp_path, monkeypatch):
    blocks = BLOCKS if family in PRE_NORM else {}
    pairs = written(family, tmp_path, blocks, monkeypatch)
    folders = [str(stock) for stock, _ in pairs]
    done = fresh.run(["-c", SCRIPT, json.dumps(folders), json.dumps(TEXTS)])
    assert done.returncode == 0, done.stderr
    for stock, ours in pairs:
        assert json.loads((stock / "config.json").read_text())["model_type"] == family
        assert json.loads((ours / "config.json").read_text())["model_type"] == f"effir_{family}"
        assert not (stock / "modeling_effir.py").exists()
        assert (ours / "modeling_effir.py").exists()
        expected = SentenceTransformer(str(ours), device="cpu").encode(TEXTS)
        assert np.array_equal(np.load(f"{stock}.npy"), expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in ON_DISK])
def test_from_disk_the_same_files_are_written(kind, tmp_path):
    bare = save_bare(kind, tmp_path / "bare", **WINDOWS.get(kind, {}))
    base = identity_on_disk(bare)
    for name, plan in plans(base, BLOCKS if kind in PRE_NORM else {}).items():
        export(load(bare), plan, tmp_path / name / "memory")
        export_from_disk(bare, plan, tmp_path / name / "disk")
        memory, disk = (tmp_path / name / kind for kind in ("memory", "disk"))
        configs = [json.loads((folder / "config.json").read_text()) for folder in (memory, disk)]
        for config in configs:  # a loaded model's is switched off, since encoding needs none
            config.pop("use_cache", None)
        assert configs[0] == configs[1]
        weights = [load_file(folder / "model.safetensors") for folder in (memory, disk)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())


def test_what_is_left_of_a_layer_keeps_its_kind(tmp_path):
    bare = save_bare("gemma3_text", tmp_path / "bare", **WINDOWS["gemma3_text"])
    plan = PruningPlan(base=identity_on_disk(bare), drop_mlp=(1,), drop_attention=(1,))
    made = export(load(bare), plan, tmp_path / "out")
    config = transformer_model(made).config
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    assert config.num_hidden_layers == 3 and config.layer_types == kinds


@pytest.mark.parametrize(
    ("family", "options", "shape", "why"),
    [
        ("llama", {}, {"mlp_widths": [48, 48, 0, 48]}, "layer 2 lost its MLP alone"),
        (
            "llama",
            {},
            {"mlp_widths": [48] * 4, "dropped_attention": [1]},
            "layer 1 lost its attention alone",
        ),
        ("llama", {}, {"mlp_widths": [48, 32, 16, 32]}, "3 widths, 16 to 48; use --uniform"),
        ("llama", {}, {"mlp_widths": [32] * 4, "mlp_output_bias": True}, "got biases"),
        ("llama", {}, {"mlp_widths": [48] * 4, "mlp_gates": True}, "gates"),
        ("llama", {}, {"mlp_widths": [0] * 4, "dropped_attention": range(4)}, "no layer is left"),
        (
            "bert",
            {},
            {"mlp_widths": [48, 48, 48, 0], "dropped_attention": [3]},
            "norms of a dropped block stay in bert",
        ),
        (
            "modernbert",
            {},
            {"mlp_widths": [0, 48, 48, 48], "dropped_attention": [0]},
            "the first layer of modernbert is unlike the others",
        ),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            {"mlp_widths": [48, 0, 48, 48], "dropped_attention": [1]},
            "layers compute by their number",
        ),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            {"mlp_widths": [48, 48, 48, 0], "dropped_attention": [3]},
            "",
        ),
        ("gpt2", {}, {"mlp_widths": [48, 0, 48, 48], "dropped_attention": [1]}, ""),
        ("bert", {}, {"mlp_widths": [32] * 4}, ""),
    ],
)
def test_the_reason_is_told(family, options, shape, why):
    config = tiny_model(family, **options).config
    found = why_not_stock(ARCHITECTURES[family], config, Shape(**shape))
    assert why in found and bool(why) == bool(found)


def test_a_pruned_model_becomes_plain_when_the_rest_of_a_block_goes(tmp_path):
    bare = save_bare("qwen3", tmp_path / "bare")
    half = PruningPlan(base=identity_on_disk(bare), drop_mlp=(2,))
    made = export(load(bare), half, tmp_path / "half")
    assert transformer_model(made).config.model_type == "effir_qwen3"
    rest = PruningPlan(base=identity_on_disk(tmp_path / "half"), drop_attention=(2,))
    made = export(load(tmp_path / "half"), rest, tmp_path / "whole")
    config = transformer_model(made).config
    assert config.model_type == "qwen3" and config.num_hidden_layers == 3
    assert not {"mlp_widths", "dropped_attention", "auto_map"} & config.to_dict().keys()


def test_a_plain_one_is_a_base_like_any_other(tmp_path):
    bare = save_bare("mistral", tmp_path / "bare")
    first = PruningPlan(base=identity_on_disk(bare), drop_mlp=(1,), drop_attention=(1,))
    export(load(bare), first, tmp_path / "first")
    base = identity_on_disk(tmp_path / "first")
    assert base.layers == 3 and base.family == "mistral"
    second = PruningPlan(base=base, drop_mlp=(0,))
    made = export(load(tmp_path / "first"), second, tmp_path / "second")
    assert transformer_model(made).config.mlp_widths == [0, 48, 48]
