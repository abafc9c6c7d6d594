"""Lengths: as many tokens as the model has positions for, in every path, and no more."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from tiny import FAMILIES, save_bare

from effir_integrations import analyze, export, load
from effir_integrations.adapters.lazy_encoder import LazyEncoder
from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.encoder import Encoder, token_batches
from effir_integrations.encoder.search_vectors import search_vectors
from effir_integrations.encoder.tokenization import token_limit
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.pruning.export import export_from_disk

PADDED = {"roberta": 127, "xlm-roberta": 127, "camembert": 127, "mpnet": 126}
"""Families whose first positions are the padding's: of 128 these are left for tokens."""
LONG = "w1 w2 w3 " * 150


def unlimited(family, folder, **options):
    """Write a bare folder whose tokenizer states no length."""
    config = save_bare(family, folder, **options) / "tokenizer_config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "model_max_length": 10**30}))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_cut_to_what_the_positions_hold(family, tmp_path):
    encoder = load(unlimited(family, tmp_path), device="cpu")
    assert encoder.max_seq_length == token_limit(encoder) == PADDED.get(family, 128)
    assert bool(np.isfinite(encoder.encode([LONG, "w1"])).all())
    stock = encoder.encode([LONG], output_value="token_embeddings")[0]
    assert len(stock) == PADDED.get(family, 128)


def test_the_padding_id_of_the_config_counts(tmp_path):
    encoder = load(unlimited("roberta", tmp_path, pad_token_id=5), device="cpu")
    assert encoder.max_seq_length == 122


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet", "bert"])
@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_a_compressed_folder_states_the_limit(family, from_disk, finished, tmp_path):
    base = unlimited(family, tmp_path / "base")
    if finished:
        bare = SentenceTransformer(str(base), device="cpu")
        bare.max_seq_length = 128
        bare.save(str(tmp_path / "finished"))
        base = tmp_path / "finished"
    encoder = load(base, device="cpu")
    plan = PruningPlan(base=BaseIdentity.of(encoder[0].model), drop_mlp=(1,))
    if from_disk:
        export_from_disk(base, plan, tmp_path / "out")
    else:
        export(encoder, plan, tmp_path / "out")
    stock = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert stock.max_seq_length == PADDED.get(family, 128)
    assert bool(np.isfinite(stock.encode([LONG])).all())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bare("roberta", tmp_path_factory.mktemp("roberta"))


def test_a_length_is_raised_up_to_the_positions_on_loading(folder):
    encoder = load(folder, device="cpu", max_length=127)
    assert encoder.max_seq_length == 127
    assert token_limit(encoder, 12) == 12
    encoder.encode([LONG])


PATHS = {
    "load": lambda folder, length: load(folder, device="cpu", max_length=length),
    "batches": lambda folder, length: next(
        token_batches(load(folder, device="cpu"), ["w1"], max_length=length)
    ),
    "analyze": lambda folder, length: analyze(
        load(folder, device="cpu"), load_calibration(["w1"]), max_length=length
    ),
    "search": lambda folder, length: search_vectors(
        SentenceTransformer(str(folder), device="cpu"), ["w1"], kind="query", max_length=length
    ),
    "call": lambda folder, length: load(folder, device="cpu").encode(["w1"], max_length=length),
    "adapter": lambda folder, length: LazyEncoder(folder, max_length=length).embed(["w1"], "query"),
    "call of an adapter": lambda folder, length: LazyEncoder(folder).embed(
        ["w1"], "query", max_length=length
    ),
}


@pytest.mark.parametrize("length", [0, -1, 128])
@pytest.mark.parametrize("path", PATHS)
def test_a_length_that_the_model_does_not_take_is_refused(folder, path, length):
    expected = "positions for 127 tokens" if length > 0 else f"max_length={length}"
    with pytest.raises(ValueError, match=expected):
        PATHS[path](folder, length)


def test_computed_positions_end_where_the_folder_says(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    with pytest.raises(ValueError, match="max_length=129, but the model has positions for 128"):
        token_limit(encoder, 129)
    encoder.max_seq_length = 200  # such as of a folder that goes beyond its config
    assert token_limit(encoder) == token_limit(encoder, 200) == 200


def test_an_encoder_of_a_class_that_was_made_without_load_has_the_limit_too(tmp_path):
    encoder = Encoder(str(unlimited("mpnet", tmp_path)), device="cpu")
    assert encoder.max_seq_length == 126
