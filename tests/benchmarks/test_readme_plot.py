"""The plot of the README: what is measured again and what not, and names beside its points."""

from __future__ import annotations

import itertools
import json
from functools import partial

import pytest
import readme_plot
import readme_points
from beir_folder import write_beir
from tiny import save_bare

from effir_integrations.evaluation.plots import new_figure

WORDS = [f"w{row} w{row + 7} w{row + 11}" for row in range(8)]
"""To calibrate on: the texts that are shipped take seconds."""


@pytest.fixture
def line(tmp_path):
    """A command line on a tiny model."""
    model = save_bare("llama", tmp_path / "large", intermediate_size=128)
    data = write_beir(tmp_path / "words")
    words = f"--model {model} --data {data} --drop 1 --rounds 1 --work {tmp_path}/work"
    return [*words.split(), "--json", f"{tmp_path}/f.json", "--png", f"{tmp_path}/f.png"]


def test_one_run_measures_and_draws_all_and_a_second_one_nothing(line, tmp_path, monkeypatch):
    two = list(readme_plot.variants(readme_plot.parser().parse_args(line)))[:2]
    monkeypatch.setattr(readme_plot, "variants", lambda options: two)
    monkeypatch.setattr(readme_plot, "compress", partial(readme_plot.compress, texts=WORDS))
    readme_plot.main([*line, "--debug"])
    found = json.loads((tmp_path / "f.json").read_text())
    full, half = found["rows"]
    assert (full["name"], full["share"], full["times as fast"]) == ("large", 1, 1)
    assert half["name"] == "large: neurons removed, refitted, 50 % left"
    assert half["interval"][0] <= half["share"] <= half["interval"][1]
    assert half["documents/s"] > 0 and half["parameters"] < full["parameters"]
    assert found["settings"]["documents"] == 12 and found["versions"]["torch"]
    # folders by their names alone
    assert found["command"] == (
        "python benchmarks/readme_plot.py --model large --data words --drop 1 --rounds 1"
    )
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")

    def never(*_, **__):
        raise AssertionError("measured again")

    for name in ("evaluate", "compress", "load"):
        monkeypatch.setattr(readme_plot, name, never)
    monkeypatch.setattr(readme_plot, "draw", lambda found, png: png)
    readme_plot.main([*line, "--debug"])
    readme_plot.main([*line[-4:], "--draw-only", "--debug"])
    with pytest.raises(ValueError, match="was measured with .* name another --json"):
        readme_plot.main([*line, "--debug", "--max-length", "8"])
    with pytest.raises(AssertionError, match="measured again"):
        readme_plot.main([*line, "--debug", "--rounds", "3"])


def test_every_model_has_a_name_of_its_own_and_a_base_that_is_measured(line, monkeypatch):
    monkeypatch.setattr(readme_plot, "minilm", lambda: "smaller")
    found = list(readme_plot.variants(readme_plot.parser().parse_args(line)))
    names = [variant.name for variant in found]
    assert len(set(names)) == len(names) == 9
    assert {variant.base for variant in found} == {"large", readme_plot.SMALLER} <= set(names)


def test_no_name_lies_on_a_point_or_another_name():
    figure = new_figure(6.4, 6.0)
    axes = figure.subplots()
    shares = [1 - 0.003 * place for place in range(6)] + [0.8]
    rows = [
        {"label": f"{place} MLPs gone", "series": "a", "documents/s": 20 + place, "share": share}
        for place, share in enumerate(shares)
    ]
    axes.plot(*readme_points._points(rows), "o")
    labels = readme_points.label_points(figure, axes, rows, {"a": "black"})
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    points = axes.transData.transform(list(zip(*readme_points._points(rows), strict=True)))
    assert not any(box.contains(*point) for box in boxes for point in points)
