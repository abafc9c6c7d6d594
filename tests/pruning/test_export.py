"""The exported folder gives the same vectors everywhere, or refuses to load."""

from __future__ import annotations

import json
import os
import resource
import shutil
from dataclasses import replace

import fresh
import numpy as np
import pytest
import torch
from fresh import ABSENT
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from tiny import save_bare, tiny_tokenizer

import effir_integrations.encoder.folder as folder_module
import effir_integrations.pruning.export as export_module
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.folder import check_same_vectors
from effir_integrations.encoder.loading import load
from effir_integrations.model.apply import apply
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import identity_on_disk
from effir_integrations.pruning.export import export, export_from_disk

TEXTS = ["w1 w2 w3", "", "w4 " * 60, "w9"]
CHAT = "{% for m in messages %}<s> w7 {{ m['content'] }} w8{% endfor %}"


def plan_for(encoder, name="tiny"):
    return PruningPlan(
        base=BaseIdentity.of(transformer_model(encoder), name),
        drop_mlp=(1,),
        drop_attention=(2,),
        neurons={3: torch.tensor([0, 3, 4, 17, 40])},
        made_by=({"stage": "drop", "config": {"mlp": 1}},),
    )


def export_tiny(family, tmp_path, **options):
    encoder = load(save_bare(family, tmp_path / "base"), **options)
    return export(encoder, plan_for(encoder), tmp_path / "out")


def encode_elsewhere(folder, tmp_path, *, before, flag):
    script = f"""
import json, sys
{before}
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu"{flag})
np.save(sys.argv[2], model.encode(json.loads(sys.argv[3])))
"""
    out = tmp_path / "vectors.npy"
    result = fresh.run(["-c", script, folder, out, json.dumps(TEXTS)])
    return result, (np.load(out) if out.is_file() else None)


@pytest.mark.parametrize("family", ["qwen3", "bert"])
@pytest.mark.parametrize(
    ("before", "flag"),
    [
        ("import effir_integrations", ""),
        ("", ", trust_remote_code=True"),
        (ABSENT, ", trust_remote_code=True"),
    ],
    ids=["imported", "not-imported", "not-installed"],
)
def test_a_fresh_process_encodes_the_same_vectors(family, before, flag, tmp_path):
    vectors = export_tiny(family, tmp_path).encode(TEXTS)
    result, elsewhere = encode_elsewhere(tmp_path / "out", tmp_path, before=before, flag=flag)
    assert elsewhere is not None, result.stderr
    # an Encoder cuts other batches than the stock class
    np.testing.assert_allclose(elsewhere, vectors, atol=1e-6, rtol=0)


@pytest.mark.parametrize("before", ["", ABSENT], ids=["not-imported", "not-installed"])
def test_without_import_and_flag_the_folder_is_refused(before, tmp_path):
    export_tiny("llama", tmp_path)
    result, elsewhere = encode_elsewhere(tmp_path / "out", tmp_path, before=before, flag="")
    assert result.returncode != 0
    assert elsewhere is None
    assert "trust_remote_code" in result.stderr


def test_stock_modules_and_text_only_input_are_written(tmp_path):
    export_tiny("mistral", tmp_path)
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert all(module["type"].startswith("sentence_transformers.") for module in modules)
    transformer = json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())
    assert list(transformer["modality_config"]) == ["text"]
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "lasttoken"


def test_eos_ends_every_text_also_a_cut_one(tmp_path):
    export_tiny("llama", tmp_path)
    tokenizer = SentenceTransformer(str(tmp_path / "out"), device="cpu").tokenizer
    assert tokenizer("w1 w2")["input_ids"][-1] == tokenizer.eos_token_id
    cut = tokenizer("w1 " * 500, truncation=True)["input_ids"]
    assert len(cut) == 32
    assert cut[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_chat_template_changes_nothing(family, tmp_path):
    save_bare(family, tmp_path / "plain")
    save_bare(family, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(CHAT)
    vectors = []
    for name in ("plain", "chat"):
        encoder = load(tmp_path / name)
        export(encoder, plan_for(encoder), tmp_path / f"{name}-out")
        vectors.append(
            SentenceTransformer(str(tmp_path / f"{name}-out"), device="cpu").encode(TEXTS)
        )
    assert load(tmp_path / "chat-out").tokenizer.chat_template == CHAT
    assert np.array_equal(*vectors)


def sentence_transformer_base(tmp_path):
    """A folder with choices of its own: CLS pooling, no normalisation, prompts, 20 tokens."""
    bare = save_bare("roberta", tmp_path / "bare")
    transformer = Transformer(
        str(bare),
        max_seq_length=20,
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    )
    prompts = {"query": "w5 w6: ", "document": ""}
    base = SentenceTransformer(
        modules=[transformer, Pooling(32, pooling_mode="cls")],
        prompts=prompts,
        similarity_fn_name="dot",
        device="cpu",
    )
    base.save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


def test_a_sentence_transformers_base_keeps_its_own_choices(tmp_path):
    encoder = load(sentence_transformer_base(tmp_path), device="cpu")
    encoder[0].model.config.matryoshka_dimensions = [32, 16]
    made = export(encoder, plan_for(encoder), tmp_path / "out")
    assert made[0].model.config.matryoshka_dimensions == [32, 16]
    assert [type(module) for module in made] == [Transformer, Pooling]
    assert made[1].pooling_mode == "cls"
    assert made.prompts == {"query": "w5 w6: ", "document": ""}
    assert made.similarity_fn_name == "dot"
    assert made.max_seq_length == 20
    assert not np.array_equal(made.encode_query(["w1"]), made.encode_document(["w1"]))


def test_a_bare_base_gets_the_pooling_of_its_kind(tmp_path):
    decoder = export_tiny("gemma2", tmp_path / "decoder")
    encoder = export_tiny("modernbert", tmp_path / "encoder")
    assert decoder[1].pooling_mode == "lasttoken"
    assert encoder[1].pooling_mode == "mean"
    for model in (decoder, encoder):
        assert isinstance(model[2], Normalize)


@pytest.mark.parametrize("kind", ["bare", "sentence-transformers"])
def test_writing_from_disk_gives_the_folder_that_memory_gives(kind, tmp_path):
    source = (
        save_bare("llama", tmp_path / "base")
        if kind == "bare"
        else sentence_transformer_base(tmp_path)
    )
    encoder = load(source, device="cpu")
    plan = plan_for(encoder)
    vectors = export(encoder, plan, tmp_path / "memory").encode(TEXTS)
    export_from_disk(source, plan, tmp_path / "disk")
    again = SentenceTransformer(str(tmp_path / "disk"), device="cpu")
    # an Encoder cuts other batches than the stock class
    np.testing.assert_allclose(again.encode(TEXTS), vectors, atol=1e-6, rtol=0)
    memory = SentenceTransformer(str(tmp_path / "memory"), device="cpu")
    assert again.prompts == memory.prompts
    assert again.max_seq_length == memory.max_seq_length
    assert again.similarity_fn_name == memory.similarity_fn_name


def test_card_and_provenance_say_what_was_removed(tmp_path):
    export_tiny("phi3", tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| 1 | kept | 48 | dropped |" in card
    assert "| 2 | dropped | 48 | 48 |" in card
    assert "| 3 | kept | 48 | 5 |" in card
    provenance = json.loads((tmp_path / "out" / "effir.json").read_text())
    assert provenance["mlp_widths"] == [48, 0, 48, 5]
    assert str(tmp_path) not in card


def test_the_code_on_the_card_runs(tmp_path):
    export_tiny("gpt2", tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("sentence_transformers_model_id", str(tmp_path / "out"))
    scope: dict[str, object] = {}
    exec(compile(code, "card", "exec"), scope)
    assert scope["similarities"].shape == (1, 2)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_tokenizer_that_adds_nothing_does_not_stop_the_export(family, pooling, tmp_path):
    save_bare(family, tmp_path / "base")
    tiny_tokenizer(adds_bos=False).save_pretrained(tmp_path / "base")
    encoder = load(tmp_path / "base", device="cpu", pooling=pooling)
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(1,))
    export(encoder, plan, tmp_path / "out")
    assert not load(tmp_path / "out", device="cpu").encode("").any()


def test_other_vectors_after_reloading_are_an_error_and_leave_nothing(tmp_path, monkeypatch):
    encoder = load(save_bare("bert", tmp_path / "base"), device="cpu")
    wrong = load(tmp_path / "base", device="cpu")
    with torch.no_grad():
        transformer_model(wrong).embeddings.word_embeddings.weight.add_(0.1)
    with pytest.raises(RuntimeError, match="gives other vectors than the model in memory"):
        check_same_vectors(encoder, wrong)
    monkeypatch.setattr(folder_module, "load", lambda *args, **kwargs: wrong)
    with pytest.raises(RuntimeError, match="nothing was kept"):
        export(encoder, plan_for(encoder), tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["base"]


def test_a_sliced_model_that_differs_from_the_masked_base_is_an_error(tmp_path, monkeypatch):
    encoder = load(save_bare("llama", tmp_path / "base"), device="cpu")
    plan = plan_for(encoder)
    other = replace(plan, neurons={3: torch.tensor([1, 2, 5, 18, 41])})
    monkeypatch.setattr(export_module, "apply", lambda model, _: apply(model, other))
    with pytest.raises(RuntimeError, match="other vectors than the masked base"):
        export(encoder, plan, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["base"]


def test_an_old_layout_with_a_transformer_subfolder_is_written_from_disk(tmp_path):
    source = sentence_transformer_base(tmp_path)
    nested = source / "0_Transformer"
    nested.mkdir()
    kept = {"modules.json", "config_sentence_transformers.json", "1_Pooling", "0_Transformer"}
    for path in [path for path in source.iterdir() if path.name not in kept]:
        path.rename(nested / path.name)
    modules = json.loads((source / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (source / "modules.json").write_text(json.dumps(modules))
    encoder = load(source, device="cpu")
    plan = plan_for(encoder)
    vectors = export(encoder, plan, tmp_path / "memory").encode(TEXTS)
    export_from_disk(source, plan, tmp_path / "disk")
    assert not (tmp_path / "disk" / "0_Transformer").exists()
    assert np.array_equal(load(tmp_path / "disk", device="cpu").encode(TEXTS), vectors)


def test_an_existing_folder_is_refused_before_anything_is_changed(tmp_path):
    encoder = load(save_bare("bert", tmp_path / "base"), device="cpu")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        export(encoder, plan_for(encoder), tmp_path / "out")
    assert transformer_model(encoder).config.model_type == "bert"
    with pytest.raises(FileExistsError, match="not written with it and would be lost: x; move"):
        export(encoder, plan_for(encoder), tmp_path / "out", force=True)
    (tmp_path / "out" / "x").unlink()
    export(encoder, plan_for(encoder), tmp_path / "out", force=True)


def test_a_plan_of_another_base_is_refused(tmp_path):
    encoder = load(save_bare("bert", tmp_path / "base"), device="cpu")
    other = load(save_bare("bert", tmp_path / "other", seed=9), device="cpu")
    with pytest.raises(ValueError, match="the weights of .* differ"):
        export(other, plan_for(encoder), tmp_path / "out")
    with pytest.raises(ValueError, match="the weights of .* differ"):
        export_from_disk(tmp_path / "other", plan_for(encoder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["", "3_Dense"])
def test_weights_that_are_not_finite_are_refused_from_disk_and_nothing_is_left(tmp_path, place):
    encoder = load(save_bare("bert", tmp_path / "bare"), device="cpu")
    encoder.append(Dense(32, 16))
    encoder.save(str(tmp_path / "base"))
    plan = plan_for(encoder)
    file = tmp_path / "base" / place / "model.safetensors"
    tensors = load_file(file)
    name = "linear.weight" if place else "encoder.layer.2.intermediate.dense.weight"
    tensors[name][1, 2] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"NaN or infinite: .*{name};"):
        load(tmp_path / "base", device="cpu")
    with pytest.raises(ValueError, match=f"NaN or infinite: {name};"):
        export_from_disk(tmp_path / "base", plan, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["bare", "base"]


def test_a_disk_that_fills_up_half_way_leaves_nothing(tmp_path):
    """A file-size limit stops the weights half-way, as a full disk would."""
    encoder = load(save_bare("bert", tmp_path / "base"), device="cpu")
    plan = plan_for(encoder)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(Exception, match="(?i)too large|i/o|error"):
            export(encoder, plan, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(os.listdir(tmp_path)) == ["base"]


def test_a_killed_export_leaves_no_model_folder(tmp_path):
    save_bare("bert", tmp_path / "base")
    script = """
import os, sys
from pathlib import Path
import effir_integrations.encoder.history as module
from effir_integrations import load, export
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.identity import BaseIdentity
encoder = load(sys.argv[1], device="cpu")
plan = PruningPlan(base=BaseIdentity.of(encoder[0].model, "x"), drop_mlp=(1,))
module.write_model_card = lambda *args: os.kill(os.getpid(), 9)
export(encoder, plan, sys.argv[2])
"""
    killed = fresh.run(["-c", script, tmp_path / "base", tmp_path / "out"])
    assert killed.returncode == -9
    assert not (tmp_path / "out").exists()


def with_module(tmp_path, path):
    """Return a Sentence Transformers folder whose pooling lies where `path` says."""
    load(save_bare("bert", tmp_path / "bare"), device="cpu").save_pretrained(str(tmp_path / "base"))
    modules = json.loads((tmp_path / "base" / "modules.json").read_text())
    shutil.move(tmp_path / "base" / modules[1]["path"], tmp_path / "payload")
    modules[1]["path"] = path
    (tmp_path / "base" / "modules.json").write_text(json.dumps(modules))
    return tmp_path / "base"


@pytest.mark.parametrize("kind", ["..", "absolute", "linked folder", "linked file"])
def test_what_leads_out_of_the_source_is_refused_and_nothing_is_written(tmp_path, kind):
    paths = {"..": "../payload", "absolute": str(tmp_path / "payload")}
    base = with_module(tmp_path, paths.get(kind, "1_Pooling"))
    if kind == "linked folder":
        (base / "1_Pooling").symlink_to("../payload")
    if kind == "linked file":
        (base / "1_Pooling").mkdir()
        (base / "1_Pooling" / "config.json").symlink_to("../../payload/config.json")
    plan = PruningPlan(base=identity_on_disk(base), drop_mlp=(1,))
    with pytest.raises(ValueError, match=f"leads out of .*base, to {tmp_path}/payload"):
        export_from_disk(base, plan, tmp_path / "deep" / "out")
    if kind != "linked file":
        with pytest.raises(ValueError, match="leads out of"):
            load(base, device="cpu")
    assert sorted(os.listdir(tmp_path)) == ["bare", "base", "payload"]


def test_files_of_the_hubs_cache_are_links_to_its_blobs(tmp_path):
    with_module(tmp_path, "1_Pooling")
    (tmp_path / "cache" / "snapshots").mkdir(parents=True)
    base = (tmp_path / "base").rename(tmp_path / "cache" / "snapshots" / "a1b2")
    (tmp_path / "payload").rename(tmp_path / "cache" / "blobs")
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").symlink_to("../../../blobs/config.json")
    plan = PruningPlan(base=identity_on_disk(base), drop_mlp=(1,))
    export_from_disk(base, plan, tmp_path / "out")
    assert not (tmp_path / "out" / "1_Pooling" / "config.json").is_symlink()
    load(tmp_path / "out", device="cpu")
