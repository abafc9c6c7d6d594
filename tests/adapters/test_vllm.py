"""vLLM is told of every pruned family, by what it calls in each of its processes."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny import FAMILIES, byte_level_tokenizer, tiny_model

from effir_integrations import export, load
from effir_integrations.adapters.vllm import NATIVE, register
from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.modeling import model_class


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
    vllm.ModelRegistry = Registry()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    return vllm.ModelRegistry  # type: ignore[attr-defined]


def test_every_architecture_that_a_config_names_is_registered(registry):
    before = dict(registry.models)
    register()
    assert {model_class(x).__name__ for x in FAMILIES} == registry.models.keys() - before
    assert before.items() <= registry.models.items()


def test_a_second_call_registers_nothing_again(registry):
    register()
    register()
    assert sorted(registry.calls) == sorted(set(registry.calls))


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
