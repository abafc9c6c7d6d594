"""Checkpoints of other tools: dropped sublayers listed in the config, code of their own beside."""

from __future__ import annotations

import json

import pytest
import torch
from lora_folder import write_adapter
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny import save_bare, tiny_tokenizer
from transformers import AutoModel
from verbs import effir_json, refused

from effir_integrations import import_pruned, load
from effir_integrations.files import read_json
from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.modeling import HISTORY_FILE

TEXTS = ["w1 w2 w3 w4", "w5 w6", "w7"]
CODE = {
    "AutoConfig": "configuration_dropped_llama.LlamaConfig",
    "AutoModelForCausalLM": "modeling_dropped_llama.LlamaForCausalLM",
}


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def dropped(folder, family="llama", mlp=(1, 3), attention=None, *, whole=True):
    """Write a checkpoint as LLM-Drop does; where not whole, without the tensors that went."""
    save_bare(family, folder)
    edit(folder, drop_mlp_list=mlp, drop_attn_list=attention, auto_map=CODE)
    (folder / "modeling_dropped_llama.py").write_text("raise RuntimeError('code was run')")
    if not whole:
        file = folder / "model.safetensors"
        gone = [f"layers.{x}.mlp." for x in mlp or ()]
        gone += [f"layers.{x}.self_attn." for x in attention or ()]
        kept = {name: x for name, x in load_file(file).items() if not any(g in name for g in gone)}
        save_file(kept, file, {"format": "pt"})
    return folder


def zeroed(folder, mlp, attention):
    """Return the states that the stock class gives where output projections are zero."""
    content = read_json(folder / "config.json", "a config")
    row = ARCHITECTURES[content["model_type"]]
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    layers = model.get_submodule(row.layers)
    with torch.no_grad():
        for layer in mlp:
            layers[layer].get_submodule(row.mlp_output).weight.zero_()
        for layer in attention:
            layers[layer].get_submodule(row.attention_output).weight.zero_()
    return model


def states(model, tokenizer):
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    return model(**batch).last_hidden_state[batch["attention_mask"].bool()]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_what_is_left_computes_what_zeroed_sublayers_compute(family, whole, tmp_path):
    source = dropped(tmp_path / "source", family, [3, 1], [0], whole=whole)
    made = import_pruned(source, tmp_path / "out")
    plain = save_bare(family, tmp_path / "plain")
    with torch.inference_mode():
        found = states(made[0].model, made.tokenizer)
        expected = states(zeroed(plain, [1, 3], [0]), made.tokenizer)
    # products of zeroed weights add exact zeros, sums go on in the same order
    assert torch.equal(found, expected)
    history = read_json(tmp_path / "out" / HISTORY_FILE, "a history")
    assert history["mlp_widths"] == [48, 0, 48, 0] and history["dropped_attention_before"] == [0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "sublayers that its checkpoint lists as dropped are left out" in card


def test_truth_values_a_layer_say_the_same_as_numbers(tmp_path):
    one = dropped(tmp_path / "one", mlp=[False, True, False, True], attention=[False] * 4)
    two = dropped(tmp_path / "two", mlp=[1, 3])
    vectors = [
        import_pruned(x, tmp_path / f"{x.name}-out").encode(TEXTS, convert_to_tensor=True)
        for x in (one, two)
    ]
    assert torch.equal(*vectors)


def test_whole_blocks_leave_a_plain_smaller_model(tmp_path):
    source = dropped(tmp_path / "source", mlp=[2], attention=[2], whole=False)
    made = import_pruned(source, tmp_path / "out", prompts={"query": "w9 "})
    config = read_json(tmp_path / "out" / "config.json", "a config")
    assert (config["model_type"], config["num_hidden_layers"]) == ("llama", 3)
    stock = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert stock.encode_query(TEXTS).tolist() == pytest.approx(made.encode_query(TEXTS), abs=1e-6)
    assert not torch.equal(*(torch.tensor(f(TEXTS)) for f in (made.encode_query, made.encode)))


def test_an_adapter_is_merged_and_brings_its_tokenizer(tmp_path):
    source = dropped(tmp_path / "source", mlp=[1], attention=None)
    plain = import_pruned(source, tmp_path / "plain")
    write_adapter(tmp_path / "plain", tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    tiny_tokenizer(adds_bos=False).save_pretrained(tmp_path / "adapter")
    made = import_pruned(source, tmp_path / "out", adapter=tmp_path / "adapter")
    expected = load(tmp_path / "adapter")
    assert torch.equal(*(x.encode(TEXTS, convert_to_tensor=True) for x in (made, expected)))
    assert not torch.equal(*(x.encode(TEXTS, convert_to_tensor=True) for x in (made, plain)))


def test_pickled_embeddings_of_an_adapter_are_never_read(tmp_path):
    source = dropped(tmp_path / "source", mlp=[1])
    write_adapter(save_bare("llama", tmp_path / "base"), tmp_path / "adapter")
    (tmp_path / "adapter" / "embedding").mkdir()
    (tmp_path / "adapter" / "embedding" / "input_emb.pth").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"input_emb.pth, which is pickled.*import again"):
        import_pruned(source, tmp_path / "out", adapter=tmp_path / "adapter")


@pytest.mark.parametrize("listed", [[4], [1, 1], [-1], [True, False], "1", [1.5], 3])
def test_lists_that_do_not_fit_the_base_are_refused(listed, tmp_path):
    source = dropped(tmp_path / "source", mlp=listed)
    with pytest.raises(ValueError, match="drop_mlp_list=.* does not fit a model of 4 layers"):
        import_pruned(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_are_missing_are_refused(tmp_path):
    source = dropped(tmp_path / "source", mlp=[1], whole=False)
    edit(source, drop_mlp_list=[2])
    with pytest.raises(ValueError, match=r"lacks 3 weights .*layers\.1\.mlp"):
        import_pruned(source, tmp_path / "out")


def test_the_verb_says_what_is_left_out_and_refuses_a_plain_model(tmp_path):
    source = dropped(tmp_path / "source", mlp=[1])
    found = effir_json("import", source, tmp_path / "out", "--query-prompt", "w9 ")
    assert found["made_by"][0]["config"] == {"drop_mlp": [1], "drop_attention": []}
    assert load(tmp_path / "out").prompts["query"] == "w9 "
    plain = save_bare("llama", tmp_path / "plain")
    assert "names no dropped layers" in refused("import", plain, tmp_path / "new")
    assert "holds no config.json" in refused("import", tmp_path, tmp_path / "new")
