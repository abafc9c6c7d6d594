"""vLLM is told of every pruned family, by what it calls in each of its processes."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_tokenizer

from effir_integrations import export, load
from effir_integrations.adapters.vllm import NATIVE, check_served, register, why_not_native
from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.modeling import config_class, model_class
from effir_integrations.model.plan import PruningPlan

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["w1 w2 w3", "w4", "w9 w8 " * 12]


class Registry:
    """As much of vLLM's `ModelRegistry` as a plug-in calls."""

    def __init__(self) -> None:
        self.models = {"LlamaModel": "vllm.model_executor.models.llama:LlamaForCausalLM"}
        self.calls: list[str] = []

    def get_supported_archs(self) -> set[str]:
        return set(self.models)

    def register_model(self, model_arch: str, model_cls: str) -> None:
        self.calls.append(model_arch)
        self.models[model_arch] = model_cls


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    vllm = types.ModuleType("vllm")
    vllm.ModelRegistry = Registry()
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    return vllm.ModelRegistry


def shape(family: str, **options):
    """Return the config of a pruned model of four layers."""
    values = {"mlp_widths": [48, 0, 24, 48], "dropped_attention": [2], "num_hidden_layers": 4}
    return config_class(family)(**{**values, **options})


def test_every_architecture_that_a_config_names_is_registered(registry):
    before = dict(registry.models)
    register()
    assert {model_class(x).__name__ for x in FAMILIES} == registry.models.keys() - before
    assert before.items() <= registry.models.items()


def test_a_second_call_registers_nothing_again(registry):
    register()
    register()
    assert len(registry.calls) == len(FAMILIES)


def test_a_family_is_served_by_a_narrowed_class_or_by_the_class_of_transformers(registry):
    register()
    for family in FAMILIES:
        name = model_class(family).__name__
        module, _, served_by = registry.models[name].partition(":")
        if family in NATIVE:
            assert served_by == name
            assert find_spec(module) is not None
        else:
            assert module == "vllm.model_executor.models.transformers"


def test_families_with_a_narrowed_class_are_families_of_ours():
    assert NATIVE.keys() <= ARCHITECTURES.keys()


def test_nothing_of_vllm_is_needed_before_the_call(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "effir_integrations.adapters.vllm")
    from effir_integrations.adapters.vllm import register

    with pytest.raises(ImportError):
        register()


@pytest.mark.parametrize("family", sorted(NATIVE))
def test_a_plain_config_is_held_by_the_narrowed_class(family):
    assert why_not_native(shape(family)) == ""


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("llama", {"hidden_act": "gelu"}, "silu"),
        ("qwen3", {"attention_bias": True}, "bias of the attention's output"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}, "sliding window"),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 2}, "sliding window"),
    ],
)
def test_what_the_narrowed_class_would_compute_otherwise_is_not_left_to_it(family, options, reason):
    assert reason in why_not_native(shape(family, **options))


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"attention_bias": True}),
        ("mistral", {"sliding_window": 16}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}),
    ],
)
def test_biases_and_windows_that_the_narrowed_class_knows_are_left_to_it(family, options):
    assert why_not_native(shape(family, **options)) == ""


def test_gates_are_refused():
    with pytest.raises(ValueError, match="gates"):
        check_served(shape("llama", mlp_gates=True), 1)


def test_widths_that_processes_cannot_share_are_refused_with_their_layers():
    check_served(shape("llama"), 8)
    with pytest.raises(ValueError, match=r"layers \[2\] have \[24\] neurons, which 16 processes"):
        check_served(shape("llama"), 16)


SERVE = """
import sys
import numpy as np

if __name__ == "__main__":
    from vllm import LLM
    from effir_integrations.adapters.vllm import register

    register()  # as vLLM does by the entry point, where the package is installed
    folder, out, *texts = sys.argv[1:]
    llm = LLM(folder, dtype="float32", max_model_len=64, enforce_eager=True)
    np.save(out, [one.outputs.embedding for one in llm.embed(texts)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_vllm_gives_the_vectors_of_the_folder(family, tmp_path):
    pytest.importorskip("vllm")
    import numpy as np

    sizes = {"hidden_size": 128, "head_dim": 32}  # vLLM's attention takes no smaller heads on CPUs
    tiny_model(family, **sizes).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base = load(tmp_path / "base", device="cpu")
    plan = PruningPlan(
        base=BaseIdentity.of(base[0].model),
        drop_mlp=(1,),
        drop_attention=(2,),
        neurons={3: torch.arange(16)},
    )
    encoder = export(base, plan, tmp_path / "pruned")
    (tmp_path / "serve.py").write_text(SERVE)
    out = tmp_path / "out.npy"
    subprocess.run(
        [sys.executable, tmp_path / "serve.py", tmp_path / "pruned", out, *TEXTS],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        },
        check=True,
        timeout=600,
    )
    served, expected = np.load(out), encoder.encode(TEXTS)
    assert (served * expected).sum(axis=1).min() > 0.9999
