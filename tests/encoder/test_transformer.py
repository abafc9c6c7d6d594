"""Weights: all that the model has, none that it leaves out, all finite; or a refusal by name."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
import transformers
from pruned_folder import write_pruned
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer.modules import Transformer
from tiny import FAMILIES, save_bare, tiny_model, tiny_tokenizer

from effir_integrations import load
from effir_integrations.encoder.encoder import Encoder
from effir_integrations.model.stored import StoredBase


def rewrite(folder, change):
    """Let `change` edit the tensors of a folder, by name."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors) or tensors, path, metadata={"format": "pt"})
    return folder


def without(name):
    return lambda tensors: {other: x for other, x in tensors.items() if other != name}


@pytest.fixture
def bert(tmp_path):
    return save_bare("bert", tmp_path / "bert")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return write_pruned("llama", tmp_path_factory.mktemp("pruned"))


def refused(folder, pattern):
    """Both ways of reading a checkpoint refuse it."""
    with pytest.raises(ValueError, match=pattern):
        load(folder, device="cpu")
    with pytest.raises(ValueError):
        StoredBase.read(folder)


def test_a_missing_tensor_is_named(bert):
    name = "encoder.layer.1.output.dense.weight"
    rewrite(bert, without(name))
    refused(bert, f"{bert} lacks 1 weights of BertModel: {name}; they would be random")


def test_tensors_of_other_names_are_missing(bert):
    rewrite(bert, lambda tensors: {f"module.{name}": x for name, x in tensors.items()})
    refused(bert, r"lacks \d+ weights .* more \(it holds module\.embeddings.*, which that class")


def test_a_missing_tensor_of_a_pruned_folder_is_named(pruned, tmp_path):
    folder = shutil.copytree(pruned, tmp_path / "pruned")
    name = "layers.3.mlp.down_proj.weight"
    rewrite(folder, without(name))
    refused(folder, f"lacks 1 weights of EffirLlamaModel: {name}")
    with pytest.raises(ValueError, match="lacks 1 weights"):
        Encoder(str(folder))


def test_a_tensor_that_no_shard_holds_is_named(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    name = "layers.2.mlp.up_proj.weight"
    shard = tmp_path / index["weight_map"].pop(name)
    tensors = load_file(shard)
    del tensors[name]
    save_file(tensors, shard, metadata={"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path, f"lacks 1 weights of LlamaModel: {name}")


@pytest.mark.parametrize("place", ["../outside.safetensors", "sub/x.safetensors", "/x.safetensors"])
def test_a_shard_that_lies_elsewhere_is_refused(tmp_path, place):
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name, shard = next(iter(index["weight_map"].items()))
    (folder / shard).rename(tmp_path / "outside.safetensors")
    index["weight_map"][name] = place
    path.write_text(json.dumps(index))
    refused(folder, f"{path} names '{place}', which is no file beside it; put all shards into one")


def test_a_layer_that_the_config_leaves_out_is_refused(bert):
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused(bert, r"holds 16 weights that its config leaves out of BertModel: encoder\.layer\.3\.")


def test_a_bias_that_the_config_leaves_out_is_refused(tmp_path):
    folder = save_bare("llama", tmp_path)
    name = "layers.0.self_attn.q_proj.bias"
    rewrite(folder, lambda tensors: {**tensors, name: torch.ones(32)})
    refused(folder, f"holds 1 weights that its config leaves out of LlamaModel: {name}")


def test_a_shape_that_the_config_does_not_ask_for_is_named(bert):
    name = "encoder.layer.1.intermediate.dense.weight"
    rewrite(bert, lambda tensors: tensors.update({name: tensors[name][:40].clone()}))
    refused(bert, rf"{name} of .* has shape \(40, 32\), but config.json asks for \(48, 32\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(bert, value):
    def spoil(tensors):
        tensors["encoder.layer.1.output.dense.weight"][3, 5] = value

    rewrite(bert, spoil)
    with pytest.raises(ValueError, match=r"NaN or infinite: .*layer\.1\.output\.dense\.weight;"):
        load(bert, device="cpu")
    with pytest.raises(ValueError, match="NaN or infinite"):
        load(bert, device="cpu", dtype="bf16")


def test_a_sum_that_overflows_is_no_weight_that_is_not_finite(bert):
    def fill(tensors):
        tensors["embeddings.word_embeddings.weight"].fill_(6e4)

    rewrite(bert, fill)
    load(bert, device="cpu", dtype="fp16")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_with_a_head_loads(family, tmp_path):
    base = tiny_model(family)
    masked, causal = (
        transformers.MODEL_FOR_MASKED_LM_MAPPING,
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
    )
    mapping = masked if type(base.config) in masked else causal
    head = mapping[type(base.config)](base.config)
    head.save_pretrained(tmp_path)
    save_bare(family, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("tok*"):
        shutil.copy(file, tmp_path)
    encoder = load(tmp_path, device="cpu")
    assert type(encoder[0]) is Transformer
    own = head.base_model.state_dict()
    assert all(
        torch.equal(own[name], tensor)
        for name, tensor in encoder[0].model.state_dict().items()
        if not name.startswith("pooler.")
    )


def test_what_old_versions_stored_may_be_there(tmp_path):
    folder = save_bare("gpt2", tmp_path)
    rewrite(
        folder,
        lambda tensors: {
            **tensors,
            "h.0.attn.bias": torch.ones(1, 1, 4, 4),
            "h.0.attn.masked_bias": torch.tensor(-1e4),
        },
    )
    load(folder, device="cpu")
    StoredBase.read(folder)


def edit_header(folder, change):
    """Rewrite a safetensors header without its tensors."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


NAME = "encoder.layer.1.output.dense.weight"


def shift(start, end):
    def change(header):
        offsets = header[NAME]["data_offsets"]
        header[NAME]["data_offsets"] = [offsets[0] + start, offsets[1] + end]

    return change


@pytest.mark.parametrize(
    "change",
    [
        shift(-4, -4),
        shift(-(10**9), -(10**9)),
        shift(0, -4),
        shift(0, -(10**6)),
        lambda header: header[NAME].pop("shape"),
        lambda header: header[NAME].update(data_offsets=[1]),
        lambda header: header.update({NAME: 3}),
    ],
)
def test_a_header_that_does_not_fit_its_tensors_is_refused(bert, change):
    edit_header(bert, change)
    error = r"model\.safetensors is .* no whole safetensors file \(.*invalid .*\); copy or download"
    with pytest.raises(ValueError, match=error):
        load(bert, device="cpu")


def test_a_header_that_is_no_object_is_refused(bert):
    (bert / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load(bert)
