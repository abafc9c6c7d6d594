"""The drop-order figure: what it shows, and that it is a readable PNG."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from effir_integrations.evaluation.plots import drop_order_grid, drop_order_heatmap, width_plot
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import ImportanceReport, PruningPlan


def report_of(mlp, attention=None, block=None):
    layers = len(mlp)
    base = BaseIdentity(
        name="owner/tiny",
        revision=None,
        family="llama",
        hidden_size=8,
        mlp_widths=tuple(0 if score is None else 16 for score in mlp),
        dropped_attention=(),
        parameters=1000,
        attention_parameters=(10,) * layers,
        mlp_parameters=(10,) * layers,
        neuron_parameters=24,
        output_bias=False,
        fingerprint="0",
    )
    return ImportanceReport(
        base=base,
        calibration={},
        mlp=tuple(mlp),
        attention=tuple(attention or range(layers)),
        block=tuple(block or range(layers)),
    )


def test_a_row_shows_the_least_important_layers_dropped():
    grid = drop_order_grid(report_of([0.3, 0.1, 0.2]), "mlp")
    assert grid.tolist() == [[0, 2, 0], [0, 1, 2], [2, 1, 1]]


def test_a_sublayer_that_is_not_in_the_model_is_never_dropped():
    grid = drop_order_grid(report_of([0.3, None, 0.2]), "mlp")
    assert grid.tolist() == [[0, 3, 2], [2, 3, 1], [4, 4, 4]]


@pytest.mark.parametrize("layers", [1, 6, 12, 32, 61])
def test_a_png_with_three_panels_is_written(tmp_path, layers):
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "new" / "order.png"
    assert drop_order_heatmap(report_of(np.linspace(0.9, 0.1, layers).tolist()), path) == path
    pixels = (image.imread(path)[..., :3] * 255).round().astype(int)
    assert pixels.shape[0] >= 400 and pixels.shape[1] > 2 * pixels.shape[0]
    # cells of the colour of a layer dropped at this step, in each third of the width
    dark = (pixels == (0x1D, 0x4F, 0x91)).all(-1)
    assert all(third.any() for third in np.array_split(dark, 3, axis=1))
    assert [entry.name for entry in path.parent.iterdir()] == ["order.png"]


def test_pyplot_and_its_global_state_are_left_alone(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    drop_order_heatmap(report_of([0.3, None, 0.2]), tmp_path / "order.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_a_name_that_is_not_png_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"order\.pdf does not end in \.png"):
        drop_order_heatmap(report_of([0.3, 0.2]), tmp_path / "order.pdf")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "effir-integrations\[plot\]"'):
        drop_order_heatmap(report_of([0.3, 0.2]), tmp_path / "order.png")
    assert not list(tmp_path.iterdir())


def test_widths_are_drawn_for_every_layer_against_the_base(tmp_path):
    pytest.importorskip("matplotlib")
    base = report_of([0.3, 0.1, 0.2]).base
    plan = PruningPlan(base=base, drop_mlp=(1,), neurons={2: torch.arange(6)})
    path = width_plot(plan, tmp_path / "deep" / "widths.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    other = PruningPlan(base=base, neurons={0: torch.arange(6)})
    assert path.read_bytes() != width_plot(other, tmp_path / "other.png").read_bytes()
    with pytest.raises(ValueError, match=r"does not end in \.png"):
        width_plot(plan, tmp_path / "widths.svg")
