from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from tiny import save_bare, tiny_model, tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification, LlamaForCausalLM

from effir_integrations.data.training_examples import load_training
from effir_integrations.encoder.loading import load
from effir_integrations.training import score as score_module
from effir_integrations.training.cross_encoder import CheckedCrossEncoder
from effir_integrations.training.score import Scored, score

ROWS = [
    {"query": f"w{i}", "pos": ["w1 w2", "w3"], "neg": [f"w{i} w9", "w8", "w7 w6"], "id": i}
    for i in range(7)
]


def write_cross_encoder(folder, labels=1):
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_labels=labels,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    # Far from zero, where a sigmoid would show.
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    torch.nn.init.constant_(model.classifier.bias, 5.0)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return write_cross_encoder(tmp_path_factory.mktemp("rerankers") / "tiny")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "mined.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def logit(folder, query, passage):
    """Score one pair with Transformers alone."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tiny_tokenizer()(query, passage, return_tensors="pt")).logits.item()


def test_each_passage_gets_its_own_raw_logit(reranker, source, tmp_path):
    out = tmp_path / "scored.jsonl"
    scored = score(reranker, source, out, batch_size=4)

    assert scored == Scored(path=out, queries=7, passages=35)
    lines = lines_of(out)
    found = [value for line in lines for value in (*line["pos_scores"], *line["neg_scores"])]
    assert min(found) > 1
    for line, row in zip(lines, ROWS, strict=True):
        assert {key: line[key] for key in row} == row
        for passages, key in (("pos", "pos_scores"), ("neg", "neg_scores")):
            expected = [logit(reranker, row["query"], text) for text in row[passages]]
            assert line[key] == pytest.approx(expected, abs=1e-4)


def test_the_scores_are_what_training_reads(reranker, source, tmp_path):
    out = tmp_path / "scored.jsonl"
    score(reranker, source, out)

    loaded = load_training(out, negatives=3, scored=True)

    for example, line in zip(loaded.dataset, lines_of(out), strict=True):
        assert example["label"][1:] == line["neg_scores"]
        assert example["label"][0] in line["pos_scores"]


def test_a_loaded_model_does_the_same_as_its_folder(reranker, source, tmp_path):
    score(reranker, source, tmp_path / "a.jsonl")
    score(CrossEncoder(str(reranker), device="cpu"), source, tmp_path / "b.jsonl")

    assert lines_of(tmp_path / "a.jsonl") == lines_of(tmp_path / "b.jsonl")


def test_windows_do_not_shift_scores(reranker, source, tmp_path, monkeypatch):
    score(reranker, source, tmp_path / "a.jsonl")
    monkeypatch.setattr(score_module, "_WINDOW", 2)
    score(reranker, source, tmp_path / "b.jsonl")

    whole, parts = lines_of(tmp_path / "a.jsonl"), lines_of(tmp_path / "b.jsonl")
    assert [line["id"] for line in parts] == list(range(7))
    for line, other in zip(whole, parts, strict=True):
        assert line["neg_scores"] == pytest.approx(other["neg_scores"], abs=1e-5)


def test_old_scores_are_replaced_and_the_source_may_be_the_target(reranker, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({**ROWS[0], "pos_scores": [99], "neg_scores": []}))

    score(reranker, path, path, force=True)

    (line,) = lines_of(path)
    assert (len(line["pos_scores"]), len(line["neg_scores"])) == (2, 3)
    assert 99 not in line["pos_scores"]


def test_tevatron_passages_and_lines_without_negatives_are_scored(reranker, tmp_path):
    path = tmp_path / "train.jsonl"
    row = {"query": "w1", "positive_passages": [{"title": "w2", "text": "w3"}]}
    path.write_text(json.dumps(row))

    score(reranker, path, tmp_path / "out.jsonl")

    (line,) = lines_of(tmp_path / "out.jsonl")
    assert line["pos_scores"] == pytest.approx([logit(reranker, "w1", "w2 w3")], abs=1e-4)
    assert line["neg_scores"] == []


def test_texts_that_are_not_ascii_or_not_unicode_are_written(reranker, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"query": "\\ud800 é", "pos": ["\\ud83d\\ude00"], "note": "\\udfff"}')

    score(reranker, path, tmp_path / "out.jsonl")

    (line,) = lines_of(tmp_path / "out.jsonl")
    assert (line["query"], line["pos"], line["note"]) == ("\ufffd é", ["\U0001f600"], "\ufffd")


def test_nothing_is_printed(reranker, source, tmp_path, capfd):
    model = CrossEncoder(str(reranker), device="cpu")
    capfd.readouterr()
    score(model, source, tmp_path / "out.jsonl")

    assert capfd.readouterr() == ("", "")


def test_a_bad_line_stops_everything_before_the_model_is_loaded(source, tmp_path):
    with source.open("a") as file:
        file.write("\n" + json.dumps({"query": "q", "pos": [""]}))
    with pytest.raises(ValueError, match=rf"{source} line 8: pos\[0\] is '', which is blank"):
        score("no/such-model", source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_score_that_is_not_finite_leaves_no_file(reranker, source, tmp_path):
    model = CrossEncoder(str(reranker), device="cpu")
    with torch.no_grad():
        model[0].model.classifier.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="line 1: the cross-encoder gave a score that is not fi"):
        score(model, source, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [source]


def test_a_model_with_several_labels_is_refused(source, tmp_path):
    folder = write_cross_encoder(tmp_path / "three", labels=3)
    with pytest.raises(ValueError, match="gives 3 labels for a pair.*choose a reranker"):
        score(folder, source, tmp_path / "out.jsonl")


def test_an_encoder_without_a_head_is_refused_rather_than_given_a_random_one(source, tmp_path):
    folder = save_bare("bert", tmp_path / "encoder")
    with pytest.raises(ValueError, match="is a BertModel, which scores no pairs; give a cross-enc"):
        score(folder, source, tmp_path / "out.jsonl")


def spoiled(tmp_path, change, *, as_modules=False):
    """A cross-encoder whose tensors were edited by `change`."""
    folder = write_cross_encoder(tmp_path / "spoiled")
    if as_modules:
        CrossEncoder(str(folder), device="cpu").save(str(tmp_path / "modules"))
        folder = tmp_path / "modules"
        assert (folder / "modules.json").is_file()
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


LAYER = "bert.encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize("as_modules", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.pop(LAYER), f"lacks 1 weights of BertForSequenceClassification: {LAYER}"),
        (lambda x: x.pop("bert.pooler.dense.bias"), "lacks 1 weights .*: bert.pooler.dense.bias"),
        (lambda x: x.pop("classifier.bias"), "lacks 1 weights of .*: classifier.bias"),
        (
            lambda x: x.update({LAYER.replace("1", "2"): x[LAYER].clone()}),
            r"holds 1 weights that its config leaves out of .*: bert.encoder.layer.2",
        ),
        (lambda x: x[LAYER].fill_(torch.nan), f"NaN or infinite: .*{LAYER}"),
    ],
)
def test_weights_that_are_not_the_models_are_refused(source, tmp_path, change, message, as_modules):
    folder = spoiled(tmp_path, change, as_modules=as_modules)
    with pytest.raises(ValueError, match=message):
        score(folder, source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("causal", [False, True])
def test_checked_weights_make_the_stock_cross_encoder(tmp_path, causal):
    folder = write_cross_encoder(tmp_path / "reranker")
    if causal:
        config = tiny_model("llama").config
        LlamaForCausalLM(config).save_pretrained(folder)
    stock = CrossEncoder(str(folder), device="cpu")
    ours = CheckedCrossEncoder(str(folder), device="cpu")
    assert [type(module) for module in ours] == [type(module) for module in stock]
    pairs = [("w1 w2", "w3"), ("w4", "w5 w6 w7")]
    assert ours.predict(pairs) == pytest.approx(stock.predict(pairs), abs=1e-6)


def test_an_embedding_folder_is_refused_rather_than_given_a_random_head(source, tmp_path):
    load(save_bare("bert", tmp_path / "bare"), device="cpu").save(str(tmp_path / "encoder"))
    with pytest.raises(ValueError, match="lacks 2 weights of BertForSequenceClassification"):
        score(tmp_path / "encoder", source, tmp_path / "out.jsonl")


def test_pickled_weights_are_refused(source, tmp_path):
    folder = write_cross_encoder(tmp_path / "pickled")
    weights = BertForSequenceClassification.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="only safetensors weights are read"):
        score(folder, source, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", "nowhere is no model folder"),
        ("nobody/nothing", "the hub could not be asked for a model nobody/nothing"),
    ],
)
def test_a_model_that_is_not_there_is_named(source, tmp_path, monkeypatch, model, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=message) as raised:
        score(model, source, tmp_path / "out.jsonl")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"out": "mined.jsonl"}, FileExistsError, "exists; choose another file"),
        ({"out": "out.txt"}, ValueError, "written to .jsonl files"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is not allowed"),
        ({"source": "nothing.jsonl"}, FileNotFoundError, "expected a .jsonl file with query"),
        ({"source": "."}, FileNotFoundError, "found a folder; name a file in it"),
    ],
)
def test_bad_arguments_are_refused(source, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    arguments = {"source": source, "out": "out.jsonl", **options}
    with pytest.raises(error, match=message):
        score("no/such-model", **arguments)


def test_an_empty_file_is_refused(source, tmp_path):
    source.write_text("\n")
    with pytest.raises(ValueError, match="holds no line to score"):
        score("no/such-model", source, tmp_path / "out.jsonl")
