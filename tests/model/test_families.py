"""The table covers what it promises and refuses the rest by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import transformers
from tiny import KINDS, tiny_model

from effir_integrations.model.families import ARCHITECTURES, find
from effir_integrations.model.refused import REFUSED

PROMISED = (
    "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi3 modernbert bert roberta xlm-roberta "
    "mpnet distilbert gpt_neox gpt2 ministral3 granite smollm3 ernie4_5 eurobert olmo2 electra "
    "ernie camembert nomic_bert gte jina_embeddings_v3"
).split()


def test_every_promised_family_has_a_row():
    assert sorted(ARCHITECTURES) == sorted(PROMISED)


def test_every_row_but_for_its_names_is_that_of_one_kind():
    rows = {name: replace(row, family="", class_prefix="") for name, row in ARCHITECTURES.items()}
    for family, row in rows.items():
        assert [rows[kind] for kind in KINDS].count(row) == 1, f"{family}: see KINDS in tiny.py"


def test_every_path_of_a_row_exists_in_every_layer(family):
    model = tiny_model(family)
    row = find(model.config)
    paths = [row.attention_output, *row.mlp_inputs, row.mlp_output, row.between]
    paths += [*row.without_attention, *row.without_mlp]
    paths += [row.attention_sum, row.mlp_sum, row.attention, row.mlp]
    for layer in model.get_submodule(row.layers):
        for path in paths:
            layer.get_submodule(path)


def test_the_parallel_residual_follows_the_config():
    row = ARCHITECTURES["gpt_neox"]
    assert row.is_parallel(transformers.GPTNeoXConfig(use_parallel_residual=True))
    assert not row.is_parallel(transformers.GPTNeoXConfig(use_parallel_residual=False))
    assert not ARCHITECTURES["llama"].is_parallel(transformers.LlamaConfig())


@pytest.mark.parametrize("config", ["MixtralConfig", "T5Config", "PhiConfig", "FalconConfig"])
def test_other_families_are_refused_by_name_with_the_list(config):
    config = getattr(transformers, config)()
    with pytest.raises(ValueError, match=f"'{config.model_type}' is not supported") as error:
        find(config)
    assert all(family in str(error.value) for family in PROMISED)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("Gemma4TextConfig", "reuse the keys and values of earlier ones"),
        ("EmbeddingGemma2TextConfig", "a third branch"),
        ("Lfm2Config", "have a convolution"),
        ("Qwen3_5TextConfig", "have linear attention"),
        ("MixtralConfig", "mixtures of experts"),
        ("T5Config", "an encoder with a decoder"),
        ("PhiConfig", "side by side behind one norm"),
        ("BloomConfig", "mixture-of-experts, encoder-decoder and shared-norm"),
    ],
)
def test_the_reason_of_a_refusal_is_told(config, why):
    with pytest.raises(ValueError, match=f"is not supported .*{why}.*; choose a model of one of"):
        find(getattr(transformers, config)())


def test_what_is_refused_is_a_type_of_transformers_and_has_no_row():
    assert not REFUSED.keys() & ARCHITECTURES.keys()
    assert set(transformers.CONFIG_MAPPING) >= set(REFUSED)


def test_cross_attention_is_refused():
    config = transformers.BertConfig(is_decoder=True, add_cross_attention=True)
    with pytest.raises(ValueError, match="cross-attention"):
        find(config)
