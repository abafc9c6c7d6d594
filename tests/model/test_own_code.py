"""Models with code of their own are pruned only where it computes what their family does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import save_bare
from transformers import AutoModel

from effir_integrations import load
from effir_integrations.data.calibration import load_calibration
from effir_integrations.encoder.encoder import transformer_model
from effir_integrations.model.identity import BaseIdentity
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.stored import StoredBase
from effir_integrations.pruning.analyze import analyze
from effir_integrations.pruning.config import DropConfig, ReconstructConfig
from effir_integrations.pruning.drop import drop
from effir_integrations.pruning.export import export
from effir_integrations.pruning.reconstruct import reconstruct

ALIKE = "class OwnModel(LlamaModel):\n    pass\n"
SEES_ALL = """
class OwnModel(LlamaModel):
    def forward(self, input_ids=None, attention_mask=None, **options):
        seen = attention_mask[:, None, None, :].bool().expand(-1, 1, input_ids.shape[1], -1)
        return super().forward(input_ids=input_ids, attention_mask=seen, **options)
"""


def with_code(folder: Path, code: str) -> Path:
    """Write a tiny llama whose config names a class in a file beside it."""
    save_bare("llama", folder)
    header = "from transformers import LlamaModel\n\n\n"
    (folder / "modeling_own.py").write_text(header + code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def texts():
    return load_calibration(["w1 w2 w3 w4", "w5 w6"], limit=None)


REFUSED = (
    "auto_map that names code of its own for AutoModel: .* the llama of Transformers would run.* "
    "trust_remote_code=True.* or delete auto_map"
)


@pytest.mark.parametrize("finished", [False, True])
def test_code_that_is_not_to_run_is_refused_before_weights_are_read(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class of Transformers would load the weights and give other vectors, with no warning."""
    folder = with_code(tmp_path / "base", SEES_ALL)
    if finished:
        trusted = load(folder, device="cpu", trust_remote_code=True)
        folder = tmp_path / "finished"
        trusted.save(str(folder))
        config = json.loads((folder / "config.json").read_text())
        assert config["model_type"] == "llama" and "AutoModel" in config["auto_map"]
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda *given, **options: pytest.fail("read"))
    with pytest.raises(ValueError, match=REFUSED) as error:
        load(folder, device="cpu")
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_code_that_was_not_run_is_refused_by_every_stage(texts, tmp_path: Path) -> None:
    """As when Sentence Transformers loaded it, which does not ask."""
    folder = with_code(tmp_path / "base", SEES_ALL)
    encoder = load(save_bare("llama", tmp_path / "plain"), device="cpu")
    named = json.loads((folder / "config.json").read_text())["auto_map"]
    transformer_model(encoder).config.auto_map = named
    plan = PruningPlan(base=BaseIdentity.of(transformer_model(encoder)), drop_mlp=(1,))
    for stage in (
        lambda: analyze(encoder, texts),
        lambda: reconstruct(encoder, texts, ReconstructConfig(keep_neurons=0.5, multiple_of=8)),
        lambda: export(encoder, plan, tmp_path / "out"),
        lambda: StoredBase.read(folder),
    ):
        with pytest.raises(ValueError, match=REFUSED):
            stage()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "plain"]


def test_code_that_computes_something_else_is_refused(texts, tmp_path: Path) -> None:
    folder = with_code(tmp_path / "base", SEES_ALL)
    encoder = load(folder, device="cpu", trust_remote_code=True)
    with pytest.raises(ValueError, match=r"OwnModel of .*gives other states on its tensors"):
        analyze(encoder, texts)


def test_code_that_computes_the_same_is_pruned(texts, tmp_path: Path) -> None:
    folder = with_code(tmp_path / "base", ALIKE)
    encoder = load(folder, device="cpu", trust_remote_code=True)
    assert type(transformer_model(encoder)).__name__ == "OwnModel"
    report = analyze(encoder, texts)
    made = export(encoder, drop(report.base, DropConfig(mlp=1), report), tmp_path / "out")
    assert type(transformer_model(made)).__name__ == "EffirLlamaModel"


def test_code_for_the_tokenizer_alone_is_no_reason_to_refuse(texts, tmp_path: Path) -> None:
    folder = with_code(tmp_path / "base", ALIKE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    (folder / "config.json").write_text(json.dumps(config))
    assert analyze(load(folder, device="cpu"), texts).mlp
