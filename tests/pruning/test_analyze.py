"""The scores against a naive reference: one text at a time, branch by branch, in float64."""

from __future__ import annotations

import gc
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from tiny import save_bare

from effir_integrations.data.calibration import Calibration
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.families import find
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import ImportanceReport
from effir_integrations.model.surgery import drop_attention, drop_mlp, model_layers
from effir_integrations.pruning import measuring
from effir_integrations.pruning.analyze import analyze

TEXTS = ("w1 w2 w3 w4 w5 w6 w7 w8 w9", "w10", "w11 w12 w13 w14", "w15 w16", "w3 w1 w2")
CALIBRATION = Calibration(texts=TEXTS, source="texts")

# Where a branch leaves its sublayer, written out by hand so as not to repeat the table's `between`.
NORMED = {"gemma2", "gemma3_text", "olmo2"}
NORM_AFTER_ATTENTION = {
    "bert": "attention.output.LayerNorm",
    "camembert": "attention.output.LayerNorm",
    "electra": "attention.output.LayerNorm",
    "ernie": "attention.output.LayerNorm",
    "roberta": "attention.output.LayerNorm",
    "xlm-roberta": "attention.output.LayerNorm",
    "mpnet": "attention.LayerNorm",
    "distilbert": "sa_layer_norm",
    "gte": "post_attention_layernorm",
    "jina_embeddings_v3": "post_attention_layernorm",
    "nomic_bert": "post_attention_layernorm",
}


@pytest.fixture
def make(tmp_path):
    """Return a function that makes an encoder of a tiny random model."""

    def made(family, dtype="fp32", **options):
        folder = save_bare(family, tmp_path / family, **options)
        return load(folder, dtype=dtype, device="cpu")

    return made


def reference(encoder, texts):
    """Return {kind: scores} by running each text alone and adding the branches up in float64."""
    model = transformer_model(encoder)
    row = find(model.config)
    sums, tokens = defaultdict(float), 0
    for text in texts:
        seen, handles = {}, []
        for index, layer in enumerate(model_layers(model, row)):
            handles += _watch(seen, index, layer, row.family)
        encoder[0](encoder.preprocess([text]))
        for handle in handles:
            handle.remove()
        tokens += len(seen[0, "input"])
        for index in range(len(model_layers(model, row))):
            for kind, (before, after) in _pairs(seen, index, row, model.config).items():
                gap = 1 - torch.cosine_similarity(before, after, dim=-1)
                sums[kind, index] += gap.sum().item()
    layers = range(len(model_layers(model, row)))
    return {
        kind: [sums[kind, x] / tokens if (kind, x) in sums else None for x in layers]
        for kind in ("attention", "mlp", "block")
    }


def _watch(seen, index, layer, family):
    def keep(name):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            seen[index, name] = output.detach()[0].double()

        return hook

    def keep_input(module, args, kwargs):
        seen[index, "input"] = args[0].detach()[0].double()

    row = find(SimpleNamespace(model_type=family))
    paths = {"attention": row.attention_output, "mlp": row.mlp_output}
    if family in NORMED:
        paths = {"attention": "post_attention_layernorm", "mlp": "post_feedforward_layernorm"}
    if family in NORM_AFTER_ATTENTION:
        paths["middle"] = NORM_AFTER_ATTENTION[family]
    handles = [
        layer.register_forward_pre_hook(keep_input, with_kwargs=True),
        layer.register_forward_hook(keep("output")),
    ]
    for name, path in paths.items():
        try:
            module = layer.get_submodule(path)
        except AttributeError:  # dropped with its parent
            continue
        if list(module.parameters()):
            handles.append(module.register_forward_hook(keep(name)))
    return handles


def _pairs(seen, index, row, config):
    start, end = seen[index, "input"], seen[index, "output"]
    pairs = {"block": (start, end)}
    factor = 0.4 if row.family == "granite" else 1.0
    attention, mlp = (
        seen[index, name] * factor if (index, name) in seen else None
        for name in ("attention", "mlp")
    )
    if attention is not None:
        pairs["attention"] = (start, start + attention)
    if mlp is not None:
        middle = start if attention is None else start + attention
        if row.family in NORM_AFTER_ATTENTION:
            middle = seen[index, "middle"]
        if row.is_parallel(config):
            middle = start
        pairs["mlp"] = (middle, middle + mlp)
    return pairs


def check(report, expected, rel):
    for kind, scores in expected.items():
        found = getattr(report, kind)
        assert [score is None for score in found] == [score is None for score in scores]
        present = [score for score in scores if score is not None]
        assert [score for score in found if score is not None] == pytest.approx(present, rel=rel)


@torch.no_grad()
def shrink_branches(encoder, factor):
    """Make every sublayer add `factor` times what it adds now."""
    model = transformer_model(encoder)
    row = find(model.config)
    for layer in model_layers(model, row):
        for path in (row.attention_output, row.mlp_output):
            for parameter in layer.get_submodule(path).parameters():
                parameter.mul_(factor)


def test_scores_of_every_family_match_the_reference(make, family):
    encoder = make(family)
    report = analyze(encoder, CALIBRATION)
    expected = reference(encoder, TEXTS)
    assert all(len(scores) == 4 and None not in scores for scores in expected.values())
    check(report, expected, rel=1e-4)


@pytest.mark.parametrize("parallel", [True, False])
def test_scores_of_both_residual_forms_match_the_reference(make, parallel):
    encoder = make("gpt_neox", use_parallel_residual=parallel)
    check(analyze(encoder, CALIBRATION), reference(encoder, TEXTS), rel=1e-4)


def test_scores_of_a_pruned_base_are_none_where_a_sublayer_is_gone(make, family):
    encoder = make(family)
    model = transformer_model(encoder)
    drop_mlp(model, find(model.config), [1, 3])
    drop_attention(model, find(model.config), [2, 3])
    report = analyze(encoder, CALIBRATION)
    assert [score is None for score in report.mlp] == [False, True, False, True]
    assert [score is None for score in report.attention] == [False, False, True, True]
    check(report, reference(encoder, TEXTS), rel=1e-4)


def test_bf16_activations_are_compared_in_fp32(make, family, monkeypatch):
    monkeypatch.setattr(measuring, "has_bf16", lambda device: True)
    encoder = make(family, dtype="bf16")
    assert transformer_model(encoder).dtype == torch.bfloat16
    check(analyze(encoder, CALIBRATION), reference(encoder, TEXTS), rel=0.05)
    # alone, a text meets the very same activations as in the reference
    report = analyze(encoder, Calibration(texts=TEXTS[:1], source="texts"))
    assert report.block == pytest.approx(reference(encoder, TEXTS[:1])["block"], rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_small_importances_keep_their_digits(make, family):
    encoder = make(family)
    shrink_branches(encoder, 3e-4)
    expected = reference(encoder, TEXTS)
    # so small that 1 minus a cosine in fp32 is mostly rounding error
    assert max(expected["mlp"]) < 1e-6
    check(analyze(encoder, CALIBRATION), expected, rel=1e-2)


def test_a_sublayer_that_adds_nothing_has_importance_zero(make):
    encoder = make("llama")
    shrink_branches(encoder, 0.0)
    report = analyze(encoder, CALIBRATION)
    assert report.attention == report.mlp == report.block == (0.0,) * 4


def test_vectors_of_length_zero_have_no_direction_to_lose(make):
    encoder = make("llama")
    with torch.no_grad():
        transformer_model(encoder).get_input_embeddings().weight.zero_()
    assert analyze(encoder, CALIBRATION).block == (0.0,) * 4


def test_a_batch_is_the_token_weighted_mean_of_its_texts(make, family):
    check_mean_of_single_texts(make(family))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "modernbert"])
def test_padding_on_the_left_does_not_count_either(make, family):
    encoder = make(family)
    encoder.tokenizer.padding_side = "left"
    assert encoder.preprocess(list(TEXTS))["attention_mask"][1, 0] == 0
    check_mean_of_single_texts(encoder)


def check_mean_of_single_texts(encoder):
    single = [analyze(encoder, Calibration(texts=(text,), source="texts")) for text in TEXTS]
    together = analyze(encoder, CALIBRATION)
    tokens = [report.calibration["tokens"] for report in single]
    assert together.calibration["tokens"] == sum(tokens)
    for kind in ("attention", "mlp", "block"):
        weighted = torch.tensor([getattr(report, kind) for report in single]).T
        mean = weighted @ torch.tensor(tokens, dtype=torch.float32) / sum(tokens)
        assert getattr(together, kind) == pytest.approx(mean.tolist(), rel=1e-4)


def test_garbage_in_padding_changes_nothing(make, family):
    encoder = make(family)
    clean = analyze(encoder, CALIBRATION)
    with torch.no_grad():
        transformer_model(encoder).get_input_embeddings().weight[0] = 1e3
    dirty = analyze(encoder, CALIBRATION)
    for kind in ("attention", "mlp", "block"):
        assert getattr(dirty, kind) == pytest.approx(getattr(clean, kind), rel=1e-6)


def test_batch_size_does_not_matter(make):
    encoder = make("bert")
    large, small = (analyze(encoder, CALIBRATION, batch_tokens=size) for size in (8192, 12))
    assert small.mlp == pytest.approx(large.mlp, rel=1e-5)
    assert small.calibration == large.calibration


def test_texts_are_cut_at_max_length(make):
    encoder = make("llama")
    short = analyze(encoder, CALIBRATION, max_length=4)
    assert short.calibration["max_length"] == 4
    assert short.calibration["tokens"] == sum(min(len(x.split()) + 2, 4) for x in TEXTS)
    assert analyze(encoder, CALIBRATION, max_length=99).calibration["max_length"] == 32
    assert encoder.max_seq_length == 32


def test_report_names_model_and_texts_and_survives_saving(make, tmp_path):
    encoder = make("qwen3")
    report = analyze(encoder, CALIBRATION)
    assert report.base == BaseIdentity.of(transformer_model(encoder))
    assert report.calibration == {
        "source": "texts",
        "sha256": CALIBRATION.sha256,
        "texts": len(TEXTS),
        "tokens": sum(len(text.split()) + 2 for text in TEXTS),
        "max_length": 32,
    }
    report.save(tmp_path)
    assert ImportanceReport.load(tmp_path) == report


def test_a_tokenizer_without_attention_mask_means_no_padding(make):
    encoder = make("llama")
    expected = analyze(encoder, Calibration(texts=TEXTS[:1], source="texts"))
    encoder.tokenizer.model_input_names = ["input_ids"]
    assert "attention_mask" not in encoder.preprocess([TEXTS[0]])
    assert analyze(encoder, Calibration(texts=TEXTS[:1], source="texts")).mlp == expected.mlp


def test_hooks_go_and_modes_come_back(make):
    encoder = make("mpnet")
    model = transformer_model(encoder).train()
    frozen = model_layers(model, find(model.config))[0].eval()
    before = analyze(encoder, CALIBRATION)
    assert _hooks(model) == 0
    assert model.training and not frozen.training
    assert analyze(encoder, CALIBRATION).mlp == before.mlp, "dropout was on"


def test_hooks_go_after_a_failure(make):
    encoder = make("llama")
    model = transformer_model(encoder)
    with torch.no_grad():
        model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"mlp of layer 2 are not finite"):
        analyze(encoder, CALIBRATION)
    assert _hooks(model) == 0


def _hooks(model):
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) for x in model.modules())


def test_no_hidden_states_pile_up(make):
    encoder = make("bert")
    alive = []

    def count(module, args):
        alive.append(sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor))

    last = model_layers(transformer_model(encoder), find(transformer_model(encoder).config))[-1]
    handle = last.register_forward_pre_hook(count)
    texts = tuple(f"w{number} " * 20 for number in range(8))
    analyze(encoder, Calibration(texts=texts, source="texts"), batch_tokens=22)
    handle.remove()
    assert len(alive) == 8
    assert alive[-1] <= alive[1]


def test_texts_without_a_token_are_refused(make):
    encoder = make("llama")
    nothing = SimpleNamespace(texts=(), source="nothing", sha256="")
    with pytest.raises(ValueError, match=r"0 calibration texts of 'nothing' hold no token"):
        analyze(encoder, nothing)


def test_texts_that_are_all_padding_are_refused(make):
    encoder = make("llama")
    preprocess = encoder.preprocess

    def masked(inputs, **kwargs):
        features = preprocess(inputs, **kwargs)
        return {**features, "attention_mask": torch.zeros_like(features["attention_mask"])}

    encoder.preprocess = masked
    with pytest.raises(ValueError, match="hold no token that is not padding"):
        analyze(encoder, CALIBRATION)


def test_a_model_without_layers_is_refused(make):
    encoder = make("llama", num_hidden_layers=0)
    with pytest.raises(ValueError, match="has no layers"):
        analyze(encoder, CALIBRATION)


def test_a_chunked_mlp_is_refused(make):
    encoder = make("bert", chunk_size_feed_forward=2)
    with pytest.raises(ValueError, match="chunk_size_feed_forward=2"):
        analyze(encoder, CALIBRATION)


def test_a_layer_that_does_not_run_is_named(make):
    encoder = make("llama")
    transformer_model(encoder).config.num_hidden_layers = 3
    with pytest.raises(RuntimeError, match="attention of layer 3 was not seen"):
        analyze(encoder, CALIBRATION)


@pytest.mark.parametrize("name", ["max_length", "batch_tokens"])
def test_limits_below_one_are_refused(make, name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        analyze(make("llama"), CALIBRATION, **{name: 0})
