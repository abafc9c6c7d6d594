"""Hidden states go on from layer to layer as in a whole forward pass, in memory or in a file."""

from __future__ import annotations

import resource
import tempfile

import pytest
import torch
from tiny import save_bare

from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.encoder.loading import load
from effir_integrations.model.families import find
from effir_integrations.model.hooks import LayerOutput, capture, evaluation_mode, run_layer
from effir_integrations.model.streams import Streams
from effir_integrations.model.surgery import model_layers

TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w8", "w9 w10 w11"]
SHAPES = [torch.Size([2, 3]), torch.Size([1, 4])]


def states(shape, dtype=torch.float32):
    return LayerOutput(hidden=torch.randn(*shape, 8).to(dtype), in_tuple=True)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Let temporary files lie in a folder that can be looked at."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_each_layer_alone_gives_what_it_gives_in_a_whole_pass(family, tmp_path):
    encoder = load(save_bare(family, tmp_path), device="cpu")
    row, batch = find(transformer_model(encoder).config), dict(encoder.preprocess(TEXTS))
    with evaluation_mode(transformer_model(encoder)):
        whole = capture(encoder, row, batch, range(4))
        start = None
        for layer in range(4):
            alone = capture(encoder, row, batch, [layer], start=start)[layer]
            start = run_layer(encoder, row, batch, layer, start)
            for name in ("activations", "output", "stream"):
                assert torch.equal(getattr(alone, name), getattr(whole[layer], name))
            assert torch.equal(start.hidden, whole[layer].handed_on.hidden)
            assert torch.equal(start.hidden, alone.handed_on.hidden)


def test_only_the_layer_that_is_asked_for_runs_and_all_have_their_own_forward_again(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    model, batch = transformer_model(encoder), dict(encoder.preprocess(TEXTS))
    row, ran = find(model.config), []
    with evaluation_mode(model):
        start = run_layer(encoder, row, batch, 0, None)
        for index, layer in enumerate(model_layers(model, row)):
            layer.self_attn.register_forward_hook(lambda *_, index=index: ran.append(index))
        run_layer(encoder, row, batch, 2, start)
        assert ran == [2]
        encoder[0](dict(batch))
    assert ran == [2, 0, 1, 2, 3]
    assert not any("forward" in vars(layer) for layer in model_layers(model, row))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory", [1 << 20, 0], ids=["memory", "file"])
def test_states_come_back_as_they_were_set_and_no_file_can_be_left(memory, dtype, temporary):
    streams = Streams(SHAPES, memory=memory)
    assert streams[0] is streams[1] is None
    for _ in range(2):
        given = [states(shape, dtype) for shape in SHAPES]
        for place, output in enumerate(given):
            streams[place] = output
        for place, output in enumerate(given):
            assert torch.equal(streams[place].hidden, output.hidden)
            assert streams[place].hidden.dtype == dtype and streams[place].in_tuple
    # the file has no name, so it goes with the process however that ends
    assert not list(temporary.iterdir())


def test_a_disk_without_room_is_told_before_anything_is_written(temporary):
    streams = Streams([torch.Size([64, 512])], memory=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match=rf"{temporary} has no room for .* set TMPDIR"):
            streams[0] = states([64, 512])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_layer_that_does_not_run_alone_is_named(tmp_path):
    encoder = load(save_bare("llama", tmp_path), device="cpu")
    model = transformer_model(encoder)
    model.config.num_hidden_layers = 3  # the model leaves the last out, its list still has it
    row, batch = find(model.config), dict(encoder.preprocess(TEXTS))
    with evaluation_mode(model), pytest.raises(RuntimeError, match="layer 3 did not run"):
        run_layer(encoder, row, batch, 3, None)
