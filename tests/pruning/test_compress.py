"""Every combination of settings of `compress` runs, or is refused in a sentence before the work."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import tiny_encoder
from tiny import save_bare

from effir_integrations import CompressConfig, compress, files
from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.encoder import Encoder, transformer_model
from effir_integrations.model.apply import apply
from effir_integrations.pruning import compress as module

TEXTS = load_calibration([f"w{x} w{x + 3} w{2 * x} w7 w{x // 2}" for x in range(1, 28)])
GRID: dict[str, tuple[Any, ...]] = {
    "drop_mlp": (0, 1, 4),
    "drop_attention": (0, 1),
    "drop_block": (0, 1),
    "last_blocks": (0, 1),
    "keep_parameters": (None, 0.8),
    "keep_neurons": (None, 0.5, 0.01, 1),
    "method": ("reconstruct", "mean", "plain"),
    "multiple_of": (1, 8, 64),
}
COMBINATIONS = [
    dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder("llama", tmp_path_factory.mktemp("grid"))


def runs(encoder: Encoder, settings: dict[str, Any]) -> bool:
    """Plan and carry out; False where a sentence refused it."""
    try:
        config = CompressConfig(**settings)
        plan, _ = module._plan(encoder, "base", TEXTS, config, False)
    except ValueError as error:
        assert "; " in str(error) and "\n" not in str(error), (settings, error)
        return False
    model = apply(copy.deepcopy(transformer_model(encoder)), plan)
    with torch.inference_mode():
        assert model(torch.arange(4, 10)[None]).last_hidden_state.isfinite().all()
    return True


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(COMBINATIONS[::41], id="some"),
        pytest.param(COMBINATIONS, id="all", marks=pytest.mark.slow),
    ],
)
def test_every_combination_runs_or_is_refused_in_a_sentence(
    encoder: Encoder, chosen: list[dict[str, Any]]
) -> None:
    outcomes = [runs(encoder, settings) for settings in chosen]
    assert 0.1 < sum(outcomes) / len(outcomes) < 0.9


@pytest.mark.parametrize("method", ["mean", "plain"])
def test_nothing_to_make_up_for_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"keep_neurons=1 removes no neuron, so method='{method}'"):
        CompressConfig(drop_mlp=1, keep_neurons=1, method=method)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"drop_mlp": 5}, "cannot drop 5 mlp sublayers: only 4 are left"),
        ({"drop_attention": 4}, "would leave none"),
        ({"drop_block": 4}, "would leave none"),
        ({"keep_parameters": 0.01}, "parameters cannot be reached"),
        ({"drop_mlp": 4, "keep_neurons": 0.5}, "no MLP is left"),
        ({"drop_mlp": 1, "keep_neurons": 0.5}, "multiple_of=64 is more than the 48 neurons"),
        ({"drop_mlp": 1, "keep_neurons": 0.01, "multiple_of": 8}, "1 neurons in all are fewer"),
    ],
)
def test_what_a_model_cannot_give_is_refused_before_its_analysis(
    settings: dict[str, Any], why: str, encoder: Encoder
) -> None:
    read = []
    word_vectors = transformer_model(encoder).get_input_embeddings()
    hook = word_vectors.register_forward_pre_hook(lambda *_: read.append(1))
    with hook, pytest.raises(ValueError, match=why):
        module._plan(encoder, "base", TEXTS, CompressConfig(**settings), False)
    assert not read


@pytest.mark.parametrize("method", ["reconstruct", "plain"])
def test_one_width_for_all_leaves_a_plain_model(method: str, tmp_path: Path) -> None:
    bare = save_bare("bert", tmp_path / "bare")
    config = CompressConfig(keep_neurons=0.4, multiple_of=4, uniform=True, method=method)
    made = compress(bare, tmp_path / "out", config, texts=list(TEXTS.texts))
    config = transformer_model(made.encoder).config
    assert config.model_type == "bert" and config.intermediate_size == 20
    assert made.plan.mlp_widths == (20, 20, 20, 20)
    said = repr(made)
    assert said.startswith("Compressed(PruningPlan(") and len(said) < 400 and "tensor" not in said
    assert "MLP widths [20, 20, 20, 20]" in said and said.endswith(f"at {tmp_path / 'out'})")


def test_refitting_alone_asks_for_no_multiple(encoder: Encoder, tmp_path: Path) -> None:
    base = transformer_model(encoder).config.name_or_path
    made = compress(base, tmp_path / "out", CompressConfig(drop_mlp=1, keep_neurons=1))
    assert sorted(made.plan.mlp_widths) == [0, 48, 48, 48]
    assert len(made.plan.outputs) == 3


def test_a_disk_without_room_is_refused_before_texts_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_bare("bert", tmp_path / "base")
    usage = files.shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    ran: list[int] = []
    monkeypatch.setattr(module, "reconstruct", lambda *_, **__: ran.append(1))
    with pytest.raises(OSError, match="20 MB are needed but only 10 MB are free"):
        compress(base, tmp_path / "out", CompressConfig(multiple_of=8), texts=["w1 w2", "w3"])
    assert not ran
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
