"""What lies in a GGUF file is the model: tensors, sizes, pooling, and nothing that is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_gguf import OPTIONS, TOKENIZERS, save_pruned, save_tiny
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from effir_integrations import convert as convert_folder
from effir_integrations import load
from effir_integrations.conversion.gguf_families import FAMILIES
from effir_integrations.conversion.gguf_tensors import interleave, llama3_factors
from effir_integrations.conversion.to_gguf import make_gguf
from effir_integrations.model.families import ARCHITECTURES
from effir_integrations.model.surgery import drop_attention, drop_mlp

gguf = pytest.importorskip("gguf")
RAGGED = {"llama": "deci", "mistral": "deci", "qwen2": "deci", "qwen3": "openelm"}


def read(out: Any) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, str]]:
    """Return the keys, the tensors and the types of the only file in a folder."""
    (path,) = out.glob("*.gguf")
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        x.name: gguf.quants.dequantize(x.data, x.tensor_type).astype(np.float32)
        for x in reader.tensors
    }
    return keys, tensors, {x.name: x.tensor_type.name for x in reader.tensors}


def convert(model: Any, out: Any, **options: Any) -> Any:
    """Write the file alone, of a folder or an encoder."""
    out.mkdir()
    encoder = load(model, device="cpu", dtype="fp32") if isinstance(model, Path) else model
    return make_gguf(encoder, out, **{"name": "pruned", "dtype": "fp32", **options})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Return the folder of a family of which something of every kind is gone, made once."""
    return cache(lambda family: save_pruned(family, tmp_path_factory.mktemp(family)))


@pytest.mark.parametrize("family", sorted(TOKENIZERS))
def test_each_family_keeps_all_its_parameters_under_the_names_of_its_graph(family, tmp_path, out):
    folder = save_tiny(family, tmp_path / family)
    written = convert(folder, out)
    keys, tensors, types = read(out)
    model = load(folder, dtype="fp32")[0].model
    expected = sum(x.numel() for name, x in model.named_parameters() if "pooler" not in name)
    if "roberta" in family:  # the rows before the first position
        expected -= 64 * (1 + model.config.pad_token_id)

    assert written.layout.graph == FAMILIES[family].graph
    assert keys["general.architecture"] == written.layout.graph.arch
    assert sum(x.size for x in tensors.values()) == expected
    assert set(types.values()) == {"F32"}
    embeddings = model.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(tensors["token_embd.weight"], embeddings)


@pytest.mark.parametrize("family", sorted(RAGGED))
def test_blocks_that_differ_take_a_graph_with_a_width_for_each(family, pruned, out):
    convert(pruned(family), out)
    keys, tensors, _ = read(out)
    arch = RAGGED[family]

    assert keys["general.architecture"] == arch
    assert keys[f"{arch}.feed_forward_length"] == [96, 32, 96, 64]
    assert keys[f"{arch}.block_count"] == 4
    for name in ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down"):
        assert not tensors[f"blk.1.{name}.weight"].any()
        assert tensors[f"blk.0.{name}.weight"].any()
    if arch == "deci":
        assert keys["deci.attention.head_count"] == [4, 4, 0, 4]
        assert not [name for name in tensors if name.startswith("blk.2.attn")]
    else:
        assert not tensors["blk.2.attn_output.weight"].any()


def test_the_first_block_keeps_an_attention_of_zeros(tmp_path, out):
    convert(save_pruned("llama", tmp_path, drop_attention=(0,)), out)
    keys, tensors, _ = read(out)

    assert keys["deci.attention.head_count"] == 4
    assert not tensors["blk.0.attn_output.weight"].any()
    assert tensors["blk.1.attn_output.weight"].any()


def test_a_block_without_both_is_left_out_and_the_rest_is_the_familys_own_graph(tmp_path, out):
    encoder = load(save_tiny("qwen3", tmp_path / "x"), device="cpu", dtype="fp32")
    model, architecture = encoder[0].model, ARCHITECTURES["qwen3"]
    drop_mlp(model, architecture, [1])
    drop_attention(model, architecture, [1])
    convert(encoder, out)
    keys, tensors, _ = read(out)

    assert (keys["general.architecture"], keys["qwen3.block_count"]) == ("qwen3", 3)
    assert keys["qwen3.feed_forward_length"] == 96
    expected = model.layers[2].mlp.up_proj.weight.detach().numpy()
    assert np.array_equal(tensors["blk.1.ffn_up.weight"], expected)


def test_rows_of_queries_and_keys_are_permuted_for_graphs_of_interleaved_rotation(pruned, out):
    folder = pruned("qwen2")
    convert(folder, out)
    _, tensors, _ = read(out)
    attention = load(folder, dtype="fp32")[0].model.layers[0].self_attn

    for name, heads in (("q", 4), ("k", 2)):
        module = getattr(attention, f"{name}_proj")
        for kind in ("weight", "bias"):
            stored = torch.from_numpy(tensors[f"blk.0.attn_{name}.{kind}"].copy())
            # pairs apart again: all first halves, then all second ones
            parted = stored.reshape(heads, len(stored) // heads // 2, 2, *stored.shape[1:])
            assert torch.equal(parted.swapaxes(1, 2).reshape(stored.shape), getattr(module, kind))
    value = attention.v_proj.weight.detach().numpy()
    assert np.array_equal(tensors["blk.0.attn_v.weight"], value)


def test_a_permuted_projection_is_no_other_one_for_heads_of_one_pair():
    rows = torch.arange(8.0)

    assert torch.equal(interleave(rows, 4), rows)
    assert interleave(rows, 1).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_openelm_stacks_queries_keys_and_values_as_they_are(pruned, out):
    folder = pruned("qwen3")
    convert(folder, out)
    _, tensors, _ = read(out)
    attention = load(folder, dtype="fp32")[0].model.layers[0].self_attn
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]

    assert np.array_equal(tensors["blk.0.attn_qkv.weight"], torch.cat(parts).detach().numpy())


def test_gemma_adds_one_to_its_norms(tmp_path, out):
    folder = save_tiny("gemma", tmp_path / "gemma")
    convert(folder, out)
    _, tensors, _ = read(out)
    norm = load(folder, dtype="fp32")[0].model.norm.weight.detach().numpy()

    assert np.array_equal(tensors["output_norm.weight"], norm + 1)


def test_llama3_factors_are_what_transformers_divides_frequencies_by():
    from transformers import LlamaConfig

    rope = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, rope_parameters=dict(rope))
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 10_000.0 ** (torch.arange(0, 32, 2) / 32)

    torch.testing.assert_close(llama3_factors(rope, 32), plain / scaled)


def test_half_precision_and_eight_bits_keep_vectors_and_tables_in_fp32(tmp_path):
    folder = save_tiny("bert", tmp_path / "bert")
    convert(folder, tmp_path / "exact")
    _, exact, _ = read(tmp_path / "exact")
    for dtype, kind, error in (("fp16", "F16", 1e-3), ("q8_0", "Q8_0", 1e-2)):
        place = tmp_path / dtype
        convert(folder, place, dtype=dtype)
        _, tensors, types = read(place)
        assert types["position_embd.weight"] == types["token_embd_norm.weight"] == "F32"
        assert types["blk.0.attn_q.bias"] == "F32"
        assert types["blk.0.ffn_up.weight"] == types["token_embd.weight"] == kind
        for name, values in tensors.items():
            assert np.abs(values - exact[name]).max() <= error * np.abs(exact[name]).max(), name


def test_rows_that_eight_bits_cannot_part_are_f16_and_are_named(tmp_path, out):
    folder = save_pruned("llama", tmp_path, neurons={3: torch.arange(33)})
    written = convert(folder, out, dtype="q8_0")
    _, _, types = read(out)

    assert written.kept_in_f16 == ("blk.3.ffn_down.weight",)
    assert types["blk.3.ffn_down.weight"] == "F16"
    assert types["blk.3.ffn_up.weight"] == types["blk.0.ffn_down.weight"] == "Q8_0"


def test_the_keys_say_what_the_folder_says(pruned, out):
    folder = pruned("llama")
    convert(folder, out)
    keys, _, _ = read(out)

    assert keys["deci.pooling_type"] == gguf.PoolingType.LAST
    assert keys["deci.context_length"] == 96
    assert keys["deci.attention.key_length"] == keys["deci.rope.dimension_count"] == 16
    assert keys["deci.rope.freq_base"] == 10_000.0
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    assert keys["tokenizer.ggml.add_bos_token"] and keys["tokenizer.ggml.add_eos_token"]
    assert len(keys["tokenizer.ggml.tokens"]) == keys["deci.vocab_size"]
    assert keys["effir.prompt.query"] == "query: "
    assert keys["effir.normalize"] is True
    assert keys["effir.max_length"] == 64
    assert keys["general.name"] == "pruned"


def test_a_window_that_the_graph_has_not_is_the_context_length(tmp_path, out):
    written = convert(save_tiny("mistral", tmp_path / "x", sliding_window=40), out)
    keys, _, _ = read(out)

    assert keys["llama.context_length"] == written.layout.longest == 40
    assert "at most 40 tokens" in written.notes[0]


def test_a_decoder_that_looks_both_ways_says_so(tmp_path, out):
    encoder = load(save_tiny("llama", tmp_path / "x"), bidirectional=True, dtype="fp32")
    convert(encoder, out)
    keys, _, _ = read(out)

    assert keys["llama.attention.causal"] is False
    assert keys["llama.pooling_type"] == gguf.PoolingType.MEAN


def test_the_card_says_how_to_run_it_and_what_differs(pruned, out):
    done = convert_folder(pruned("mistral"), out, "gguf", dtype="q8_0")
    page = (out / "README.md").read_text()

    assert done.file == "model-q8_0.gguf"
    assert (out / "Modelfile").read_text() == "FROM ./model-q8_0.gguf\nPARAMETER num_ctx 64\n"
    assert "llama-server -m FOLDER/model-q8_0.gguf --embedding -c 64 -b 64 -ub 64" in page
    assert "n_ctx=n, n_batch=n, n_ubatch=n" in page and "normalize=True" in page
    assert "embed(['query: how do plants make sugar?']" in page
    assert "| query | `'query: '` |" in page
    assert "Pooling is in the file; vectors get unit length where they are asked for." in page
    assert "deci`, 4 blocks" in page


def test_the_card_says_what_is_not_as_in_the_folder(tmp_path, out):
    folder = save_pruned("qwen2", tmp_path, neurons={3: torch.arange(33)})
    convert_folder(folder, out, "gguf", dtype="q8_0")
    page = (out / "README.md").read_text()

    assert "1 matrices have rows that are no multiple of 32 values" in page
    assert "give it texts in that form" in page  # NFC


def test_without_a_tokenizer_the_card_says_that_ids_go_in(tmp_path, out):
    convert_folder(save_tiny("llama", tmp_path / "x"), out, "gguf-ids")

    assert "takes token ids" in (out / "README.md").read_text()
    assert not (out / "Modelfile").exists()


def test_other_types_name_the_tool_that_makes_them(tmp_path, out):
    message = r"'q4_k_m' is not known for gguf; .*llama-quantize OUT/model-fp16.gguf .* Q4_K_M"
    with pytest.raises(ValueError, match=message):
        convert_folder(tmp_path / "none", out, "gguf", dtype="q4_k_m")


def test_without_a_tokenizer_the_folders_lies_beside_the_file(tmp_path, out):
    convert(save_tiny("llama", tmp_path / "x"), out, tokenizer=False)
    keys, _, _ = read(out)

    assert keys["tokenizer.ggml.model"] == "none"
    assert (out / "tokenizer.json").is_file()


@pytest.mark.parametrize("family", ["bert", "gemma2"])
def test_blocks_that_differ_are_refused_where_no_graph_has_them(family, pruned, out):
    folder = pruned(family)
    with pytest.raises(ValueError, match="MLPs of 96, 0, 96, 64 neurons.*--uniform.*--to onnx"):
        convert(folder, out)
    assert not list(out.iterdir())


def test_one_width_for_all_is_the_familys_own_graph(tmp_path, out):
    kept = {layer: torch.arange(64) for layer in range(4)}
    convert(save_pruned("bert", tmp_path, neurons=kept), out)
    keys, _, _ = read(out)

    assert (keys["general.architecture"], keys["bert.feed_forward_length"]) == ("bert", 64)


def test_a_bias_without_a_place_names_the_method_that_brings_it(tmp_path, out):
    outputs = {3: {"weight": torch.zeros(64, 64), "bias": torch.ones(64)}}
    parts = {"neurons": {3: torch.arange(64)}, "outputs": outputs}
    with pytest.raises(ValueError, match=r"down_proj\.bias.*no output bias \(any but mean\)"):
        convert(save_pruned("qwen3", tmp_path, **parts), out)


def test_a_bias_with_a_place_is_kept(tmp_path, out):
    outputs = {3: {"weight": torch.zeros(64, 64), "bias": torch.ones(64)}}
    folder = save_pruned("qwen2", tmp_path, neurons={3: torch.arange(64)}, outputs=outputs)
    convert(folder, out)
    _, tensors, _ = read(out)

    assert tensors["blk.3.ffn_down.bias"].tolist() == [1.0] * 64


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("gemma2", {"layer_types": ["full_attention"] * 4}, "takes block 0 for sliding_attention"),
        (
            "gemma2",
            {"query_pre_attn_scalar": 64},
            "by the root of 16, and this model by that of 64",
        ),
        ("gemma2", {"attn_logit_softcapping": None}, "caps the scores"),
        ("llama", {"hidden_act": "gelu"}, "computes silu, and the MLPs of this model gelu"),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "original_max_position_embeddings": 48,
                }
            },
            "the way 'yarn'",
        ),
    ],
)
def test_what_the_engine_would_compute_otherwise_is_refused(
    family, options, message, tmp_path, out
):
    folder = save_tiny(family, tmp_path / "x", **options)
    with pytest.raises(ValueError, match=message):
        convert(folder, out)


@pytest.mark.parametrize("family", ["gpt2", "mpnet", "gpt_neox", "phi3"])
def test_a_family_without_a_row_names_the_way_out(family, tmp_path, out):
    folder = save_tiny(family, tmp_path / "x", TOKENIZERS["qwen2"]())
    with pytest.raises(ValueError, match=f"{family} has no row.*--to onnx"):
        convert(folder, out)


def test_modules_that_the_engine_has_not_are_refused(tmp_path, out):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = save_tiny("llama", tmp_path / "x")
    with pytest.raises(ValueError, match="no pooling 'max'"):
        convert(load(folder, pooling="max"), out)
    encoder = load(folder)
    encoder.insert(2, Dense(64, 32))
    with pytest.raises(ValueError, match="1 Dense modules.*holds none"):
        make_gguf(encoder, out, name="x", dtype="fp32")


def test_gemma_embedding_holds_two_projections(tmp_path, out):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = save_tiny("gemma3_text", tmp_path / "x", use_bidirectional_attention=True)
    encoder = load(folder, dtype="fp32")
    for place, (inputs, outputs) in enumerate([(64, 128), (128, 64)], start=2):
        encoder.insert(place, Dense(inputs, outputs, bias=False, activation_function=None))
    convert(encoder, out)
    keys, tensors, _ = read(out)

    assert keys["general.architecture"] == "gemma-embedding"
    assert keys["gemma-embedding.dense_2_feat_out"] == 128
    assert keys["gemma-embedding.attention.sliding_window"] == 24
    assert tensors["dense_3.weight"].shape == (64, 128)


def test_every_row_of_the_table_is_tried():
    assert set(FAMILIES) == set(TOKENIZERS) >= set(OPTIONS)
