"""A folder that holds a LoRA adapter is loaded as what it makes of its base, or refused by name."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from hub_cache import publish
from lora_folder import edit, peft, write_adapter, write_stored
from pruned_folder import TEXTS
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny import save_bare, tiny_model

from effir_integrations import load
from effir_integrations.encoder.encoder import Encoder, transformer_model
from effir_integrations.encoder.fingerprint import encoder_fingerprint
from effir_integrations.encoder.mini import mini_path
from effir_integrations.encoder.model_files import identify_files
from effir_integrations.encoder.peft_merge import merge
from effir_integrations.encoder.sources import find_architecture
from effir_integrations.evaluation.models import model_bytes
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.peft_folder import find_adapter
from effir_integrations.training.score import score

HEADS = {
    "llama": transformers.AutoModelForCausalLM,
    "gpt2": transformers.AutoModelForCausalLM,
    "bert": transformers.AutoModelForMaskedLM,
}


def vectors_with(base, model):
    """Encode by the stock class with a model in place of the base's, adapters and all."""
    encoder = load(base, device="cpu")
    encoder[0].model = getattr(model, model.base_model_prefix, model)
    return SentenceTransformer(modules=list(encoder), device="cpu").encode(TEXTS)


def same_as_unmerged(folder, base, carrying):
    found, expected = load(folder, device="cpu"), vectors_with(base, carrying.get_base_model())
    plain = load(base, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found.encode(TEXTS), expected, atol=1e-5)
    assert np.abs(expected - plain).max() > 0.01
    assert not any("lora" in name for name in found.state_dict())
    return found


@pytest.fixture(scope="module", params=list(HEADS))
def bare(request, tmp_path_factory):
    return save_bare(request.param, tmp_path_factory.mktemp(request.param) / "base")


@pytest.fixture
def llama(tmp_path):
    return save_bare("llama", tmp_path / "base")


@pytest.fixture
def adapter(llama, tmp_path):
    write_adapter(llama, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.fixture(scope="module", params=["qwen3", "bert"])
def stored(request, tmp_path_factory):
    folder = write_stored(request.param, tmp_path_factory.mktemp(request.param))
    assert not (folder / "config.json").exists()
    return folder


def test_an_adapter_of_a_bare_model_gives_what_peft_gives(bare, tmp_path):
    same_as_unmerged(tmp_path / "a", bare, write_adapter(bare, tmp_path / "a"))


def test_an_adapter_that_was_trained_below_a_head_gives_what_peft_gives(bare, tmp_path):
    family = json.loads((bare / "config.json").read_text())["model_type"]
    carrying = write_adapter(bare, tmp_path / "a", kind=HEADS[family])
    names = load_file(tmp_path / "a" / "adapter_model.safetensors")
    prefix = carrying.get_base_model().base_model_prefix
    assert any(name.startswith(f"base_model.model.{prefix}.") for name in names)
    same_as_unmerged(tmp_path / "a", bare, carrying)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"target_modules": "all-linear"},
        {"target_modules": r"model\.layers\.[12]\.mlp\.up_proj"},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [5, 6]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"rank_pattern": {"model.layers.1.self_attn.q_proj": 2}, "layers_to_transform": [1, 2]},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_whatever_peft_merges_is_merged(llama, tmp_path, options):
    carrying = write_adapter(llama, tmp_path / "a", kind=HEADS["llama"], **options)
    same_as_unmerged(tmp_path / "a", llama, carrying)


def test_a_sentence_transformers_folder_gives_what_the_stock_class_gives(stored, tmp_path):
    stock = SentenceTransformer(str(stored), device="cpu")
    found = load(stored, device="cpu")
    np.testing.assert_allclose(found.encode(TEXTS), stock.encode(TEXTS), atol=1e-5)
    assert found.prompts == stock.prompts and found.prompts
    np.testing.assert_allclose(found.encode_query(TEXTS), stock.encode_query(TEXTS), atol=1e-5)
    by_class = Encoder(str(stored), device="cpu")
    assert encoder_fingerprint(by_class) == encoder_fingerprint(found)


def test_what_is_saved_is_an_ordinary_folder(stored, tmp_path):
    ordinary_when_saved(stored, tmp_path)


def test_what_is_saved_of_a_bare_adapter_is_an_ordinary_folder(adapter, tmp_path):
    ordinary_when_saved(adapter, tmp_path)


def ordinary_when_saved(folder, tmp_path):
    found = load(folder, device="cpu")
    assert found[0].model.name_or_path == str(folder)
    found.save_pretrained(str(tmp_path / "merged"))
    written = [path.name for path in (tmp_path / "merged").rglob("*")]
    assert "model.safetensors" in written and not any("adapter" in name for name in written)
    again = load(tmp_path / "merged", device="cpu")
    assert np.array_equal(again.encode(TEXTS), found.encode(TEXTS))
    assert again.find_shortcuts() == found.find_shortcuts() and found.find_shortcuts().batches
    assert encoder_fingerprint(again) == encoder_fingerprint(found)
    assert model_bytes(found, folder) > 10_000


def test_a_base_of_modules_and_prompts_keeps_them(tmp_path):
    model = transformers.AutoModel.from_pretrained(mini_path())
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "a")
    edit(tmp_path / "a", base_model_name_or_path="effir-mini")
    found, base = load(tmp_path / "a", device="cpu"), load("effir-mini", device="cpu")
    assert found.prompts == base.prompts and len(found) == len(base)
    assert np.abs(found.encode(["a b"]) - base.encode(["a b"])).max() > 1e-3
    found.save_pretrained(str(tmp_path / "merged"))
    assert "effir-mini" not in (tmp_path / "merged" / "README.md").read_text()


def test_a_base_is_found_from_the_folder_of_the_adapter(adapter, tmp_path, monkeypatch):
    expected = load(adapter, device="cpu").encode(TEXTS)
    edit(adapter, base_model_name_or_path="../base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert np.array_equal(load(adapter, device="cpu").encode(TEXTS), expected)
    assert find_architecture(adapter).family == "llama"


def test_an_adapter_on_an_adapter_is_merged_into_what_that_makes(llama, adapter, tmp_path):
    load(adapter, device="cpu").save_pretrained(str(tmp_path / "merged"))
    write_adapter(tmp_path / "merged", tmp_path / "second", seed=1)
    expected = load(tmp_path / "second", device="cpu").encode(TEXTS)
    edit(tmp_path / "second", base_model_name_or_path=str(adapter))
    found = load(tmp_path / "second", device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_half_precision_is_merged_in_fp32(adapter, llama):
    found = transformer_model(load(adapter, device="cpu", dtype="bf16"))
    exact = transformer_model(load(adapter, device="cpu"))
    name = "layers.1.mlp.down_proj.weight"
    # the base is rounded when it is loaded, and the sum once more
    base = load_file(llama / "model.safetensors")[name]
    delta = exact.get_parameter(name) - base
    assert torch.equal(found.get_parameter(name), (base.bfloat16().float() + delta).bfloat16())


def test_its_tokenizer_is_taken_where_it_brings_one(adapter, llama):
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    tokenizer.add_tokens(["w5w5"])
    tokenizer.save_pretrained(adapter)
    found, base = load(adapter, device="cpu"), load(llama, device="cpu")
    assert found.tokenizer("w5w5").input_ids != base.tokenizer("w5w5").input_ids
    assert found.tokenizer("w5").input_ids == base.tokenizer("w5").input_ids
    assert found.max_seq_length == base.max_seq_length


def test_files_of_the_base_are_part_of_what_an_adapter_is(adapter, llama):
    before = identify_files(adapter).identity
    assert identify_files(adapter).identity == before
    tiny_model("llama", seed=1).save_pretrained(llama)
    assert identify_files(adapter).identity != before


def refuses(error, pattern, folder, *, call=None):
    with pytest.raises(error, match=pattern) as raised:
        (call or (lambda: load(folder, device="cpu")))()
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("family", "options", "pattern"),
    [
        ("bert", {}, "does not fit its base .*[Tt]arget modules"),
        ("llama", {"num_hidden_layers": 2}, r"holds .*layers\.2\..* and \d+ more, which the base"),
        ("llama", {"num_hidden_layers": 6}, r"lacks .*layers\.4\..* and \d+ more"),
        ("llama", {"intermediate_size": 64}, "in another shape than the base has"),
    ],
)
def test_an_adapter_of_another_base_is_refused(adapter, tmp_path, family, options, pattern):
    save_bare(family, tmp_path / "other", **options)
    edit(adapter, base_model_name_or_path=str(tmp_path / "other"))
    message = refuses(ValueError, pattern, adapter)
    assert str(adapter) in message and str(tmp_path / "other") in message


@pytest.mark.parametrize("base", ["models/nowhere", "/nowhere/base"])
@pytest.mark.parametrize("call", [load, find_architecture, identify_files])
def test_a_missing_base_is_named_with_its_adapter(adapter, base, call, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    edit(adapter, base_model_name_or_path=base)
    message = refuses(FileNotFoundError, base, adapter, call=lambda: call(adapter))
    assert str(adapter) in message and "base_model_name_or_path" in message


def test_a_missing_base_of_a_stored_encoder_is_named(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(stored, tmp_path / "a")
    edit(tmp_path / "a", base_model_name_or_path="models/nowhere")
    assert str(tmp_path / "a") in refuses(FileNotFoundError, "models/nowhere", tmp_path / "a")


def test_pickled_weights_are_refused(adapter):
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.unlink()
    refuses(FileNotFoundError, "no adapter_model.safetensors; only safetensors", adapter)


def test_damaged_weights_are_refused(adapter):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    refuses(ValueError, f"{weights} is truncated", adapter)


def test_weights_that_are_not_finite_are_refused(adapter):
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors[min(tensors)].fill_(float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    refuses(ValueError, f"{adapter} has weights that are NaN", adapter)


def test_prompt_tuning_is_refused(adapter, llama):
    model = transformers.AutoModelForCausalLM.from_pretrained(llama)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    shutil.rmtree(adapter)
    peft.get_peft_model(model, config).save_pretrained(adapter)
    refuses(ValueError, "of kind PROMPT_TUNING, which cannot be merged", adapter)


def test_an_adapter_that_names_no_base_is_refused(adapter):
    edit(adapter, base_model_name_or_path=None)
    refuses(ValueError, "names no base; set base_model_name_or_path", adapter)


def test_an_adapter_that_names_itself_is_refused(adapter):
    edit(adapter, base_model_name_or_path=str(adapter))
    refuses(ValueError, "names itself as its base", adapter)


def test_an_adapter_beside_weights_is_refused(adapter, llama):
    for path in adapter.iterdir():
        shutil.copyfile(path, llama / path.name)
    refuses(ValueError, "holds an adapter beside the weights; delete", llama)


def test_a_config_that_asks_for_another_model_than_the_base_is_refused(adapter, llama):
    config = json.loads((llama / "config.json").read_text())
    (adapter / "config.json").write_text(json.dumps(config))
    load(adapter, device="cpu")
    (adapter / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    refuses(ValueError, "differs from that of its base .* in is_causal", adapter)


def test_a_quantised_base_is_refused(adapter, llama):
    model = transformers.AutoModel.from_pretrained(llama)
    model.config.quantization_config = {"quant_method": "fp8"}
    refuses(
        ValueError,
        "held in fewer than 16 bits",
        adapter,
        call=lambda: merge(model, find_adapter(adapter)),
    )


def test_a_merge_that_computes_something_else_is_refused(adapter, llama, monkeypatch):
    model = transformers.AutoModel.from_pretrained(llama)
    monkeypatch.setattr(peft.tuners.lora.Linear, "merge", lambda *args, **kwargs: None)
    refuses(
        RuntimeError,
        "changes what it computes",
        adapter,
        call=lambda: merge(model, find_adapter(adapter)),
    )


def test_without_peft_it_is_named(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    refuses(ImportError, r"pip install \"effir-integrations\[train\]\"", adapter)


def test_adapters_on_the_hub_are_known_by_their_own_name_and_commit(
    adapter, llama, stored, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    local = load(adapter, device="cpu"), load(stored, device="cpu")
    publish(llama, "me/base", "b" * 40, tmp_path / "hub")
    edit(adapter, base_model_name_or_path="me/base")
    publish(adapter, "me/bare", "a" * 40, tmp_path / "hub")
    publish(stored, "me/stored", "c" * 40, tmp_path / "hub")
    for name, commit, expected in zip(("me/bare", "me/stored"), "ac", local, strict=True):
        found = load(name, device="cpu")
        assert np.array_equal(found.encode(TEXTS), expected.encode(TEXTS))
        identity = BaseIdentity.of(transformer_model(found))
        assert (identity.name, identity.revision) == (name, commit * 40)
        assert identify_files(name).identity.startswith(f"{name} at {commit * 40} on ")
        assert model_bytes(found, name) == model_bytes(expected, expected)


def test_an_adapter_of_a_reranker_is_refused(adapter, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"query": "w1", "pos": ["w2"], "neg": ["w3"]}')
    call = partial(score, str(adapter), tmp_path / "train.jsonl", tmp_path / "out.jsonl")
    refuses(ValueError, "only encoders are merged with theirs", adapter, call=call)
