"""A pruned model saves, reloads in other processes bit for bit, and is never loaded wrongly."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys

import fresh
import pytest
import torch
from fresh import ABSENT
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_model
from transformers import AutoConfig, AutoModel

from effir_integrations.model.apply import apply
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.modeling import STANDALONE_FILE, config_class, model_class
from effir_integrations.model.plan import PruningPlan

BATCH = {
    "input_ids": torch.tensor([[5, 9, 11, 33, 8], [7, 12, 0, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
}
RELOAD = """
import sys
{before}
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

batch = load_file(sys.argv[1] + "/batch.safetensors")
out = {{}}
for name in sys.argv[2:]:
    model = AutoModel.from_pretrained(f"{{sys.argv[1]}}/{{name}}"{flag}).eval()
    with torch.inference_mode():
        out[name] = model(**batch)[0].contiguous()
save_file(out, sys.argv[1] + "/out.safetensors")
{after}
"""
NOT_IMPORTED = "assert not any(m.startswith('effir_integrations') for m in sys.modules)"


def pruned(family, seed=0):
    """One MLP dropped, one narrowed, one attention dropped."""
    model = tiny_model(family, seed)
    base = BaseIdentity.of(model, family)
    neurons = {3: torch.tensor([0, 3, 4, 17, 40])}
    plan = PruningPlan(base=base, drop_mlp=(1,), drop_attention=(2,), neurons=neurons)
    return apply(model, plan), plan


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of all families, and what they gave before saving."""
    torch.set_num_threads(1)  # as in the processes that reload: more threads sum in another order
    folder = tmp_path_factory.mktemp("saved")
    save_file(BATCH, folder / "batch.safetensors")
    outputs = {}
    for family in FAMILIES:
        model, _ = pruned(family)
        model.save_pretrained(folder / family)
        with torch.inference_mode():
            outputs[family] = model(**BATCH)[0]
    return folder, outputs


@pytest.fixture(scope="module")
def reloaded_with_package(saved):
    folder, _ = saved
    script = RELOAD.format(before="import effir_integrations", flag="", after="")
    # an interpreter of its own, where Transformers is imported after the package and not before
    subprocess.run(
        [sys.executable, "-c", script, folder, *FAMILIES],
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    return load_file(folder / "out.safetensors")


@pytest.fixture(scope="module")
def reloaded_without_package(saved):
    folder, _ = saved
    script = RELOAD.format(before=ABSENT, flag=", trust_remote_code=True", after=NOT_IMPORTED)
    fresh.run(["-c", script, folder, *FAMILIES], check=True)
    return load_file(folder / "out.safetensors")


def test_a_fresh_process_with_the_package_gives_the_same_bits(family, saved, reloaded_with_package):
    assert torch.equal(reloaded_with_package[family], saved[1][family])


def test_a_fresh_process_without_the_package_gives_the_same_bits(
    family, saved, reloaded_without_package
):
    assert torch.equal(reloaded_without_package[family], saved[1][family])


@pytest.mark.parametrize("family", ["bert", "qwen3"])
def test_without_package_and_flag_the_folder_is_refused(family, saved):
    load = "AutoModel.from_pretrained(sys.argv[1], trust_remote_code=False)"
    script = f"import sys\n{ABSENT}\nfrom transformers import AutoModel\n{load}"
    result = fresh.run(["-c", script, saved[0] / family])
    assert result.returncode != 0
    assert "trust_remote_code=True" in result.stderr


def test_sliced_tensors_keep_the_base_names(family):
    model, plan = pruned(family)
    base_names = set(tiny_model(family).state_dict())
    assert set(model.state_dict()) < base_names
    assert sum(p.numel() for p in model.parameters()) == plan.parameters


def test_bf16_survives_the_round_trip_bitwise(family, tmp_path):
    # loaded, not cast: rotary frequencies stay fp32 only in a model that is loaded in bf16
    tiny_model(family).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    base = AutoModel.from_pretrained(tmp_path / "base").eval()
    model = apply(base, pruned(family)[1])
    model.save_pretrained(tmp_path / "pruned")
    again = AutoModel.from_pretrained(tmp_path / "pruned").eval()
    assert again.dtype == torch.bfloat16
    with torch.inference_mode():
        assert torch.equal(again(**BATCH)[0], model(**BATCH)[0])


def test_config_states_the_shape_and_its_own_model_type(family, saved):
    content = json.loads((saved[0] / family / "config.json").read_text())
    assert content["model_type"] == f"effir_{family}"
    assert content["mlp_widths"] == [48, 0, 48, 5]
    assert content["dropped_attention"] == [2]
    assert content["auto_map"]["AutoModel"].startswith("modeling_effir.")
    assert (saved[0] / family / STANDALONE_FILE).is_file()


def test_saving_again_keeps_the_folder_loadable(saved, tmp_path):
    again = AutoModel.from_pretrained(saved[0] / "mpnet")
    again.save_pretrained(tmp_path)
    assert (tmp_path / STANDALONE_FILE).is_file()
    assert AutoConfig.from_pretrained(tmp_path).mlp_widths == [48, 0, 48, 5]


def test_a_pruned_model_pickles_by_name(family, saved):
    model = AutoModel.from_pretrained(saved[0] / family).eval()
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    before, after = model.state_dict(), again.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with torch.inference_mode():
        assert torch.equal(again(**BATCH)[0], model(**BATCH)[0])


def test_a_model_made_from_its_config_has_finite_weights(family, saved):
    config = AutoConfig.from_pretrained(saved[0] / family)
    torch.manual_seed(0)
    model = model_class(family)(config).eval()
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_padding_changes_nothing(family, saved):
    """A lost attention implementation would ignore the mask, and only batches would show it."""
    model = AutoModel.from_pretrained(saved[0] / family).eval()
    alone = {name: value[1:, :2] for name, value in BATCH.items()}
    with torch.inference_mode():
        # another padded length sums in another order, hence no bitwise comparison
        torch.testing.assert_close(
            model(**alone)[0][0], model(**BATCH)[0][1, :2], rtol=1e-4, atol=1e-5
        )


def test_a_dropped_attention_is_still_found_by_the_number_of_its_layer():
    """An engine looks for that number in each layer, and for the call that `forward` would make."""
    model, _ = pruned("llama")
    attention = model.layers[2].self_attn
    assert attention.layer_idx == 2
    assert attention.config is model.layers[0].self_attn.config
    assert 'ALL_ATTENTION_FUNCTIONS["eager"]' in inspect.getsource(type(attention).forward)
    assert not list(attention.parameters())


@pytest.mark.parametrize("causal", [True, False])
def test_attentions_say_what_the_config_says_of_what_tokens_see(causal):
    """Transformers reads the config, and vLLM the modules."""
    config = config_class("llama")(**tiny_model("llama").config.to_dict() | {"is_causal": causal})
    model = model_class("llama")(config)
    assert {m.is_causal for m in model.modules() if hasattr(m, "is_causal")} == {causal}


def test_widths_that_do_not_match_the_layers_are_refused(saved, tmp_path):
    config = AutoConfig.from_pretrained(saved[0] / "bert")
    config.mlp_widths = [48, 0]
    with pytest.raises(ValueError, match="2 entries but the model has 4 layers"):
        model_class("bert")(config)


def test_the_standalone_file_needs_no_package_of_ours(family, saved):
    source = (saved[0] / family / STANDALONE_FILE).read_text()
    imports = [line for line in source.splitlines() if line.startswith(("import", "from"))]
    assert all("effir" not in line and "from ." not in line for line in imports)
    compile(source, STANDALONE_FILE, "exec")
