"""`show` in Python is what `effir show` prints."""

from __future__ import annotations

import json

import pytest
import torch
from pruned_folder import write_pruned
from tiny import save_bare
from verbs import effir, effir_json

import effir_integrations
from effir_integrations.model.plan import PruningPlan
from effir_integrations.model.rewrite import identity_on_disk


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    base = save_bare("llama", folder / "base")
    PruningPlan(base=identity_on_disk(base), drop_mlp=(1,)).save(folder / "run")
    (folder / "whole").mkdir()
    return {
        "base": base,
        "run": folder / "run",
        "pruned": write_pruned("llama", folder / "whole"),
        "plain": plain(base, folder / "plain"),
    }


def plain(base, out):
    """A folder whose third layer is gone, and which is a plain Llama."""
    plan = PruningPlan(
        base=identity_on_disk(base),
        drop_mlp=(2,),
        drop_attention=(2,),
        neurons={layer: torch.arange(10) for layer in (0, 1, 3)},
    )
    effir_integrations.export(base, plan, out)
    return out


@pytest.mark.parametrize(
    ("name", "kind"), [("base", "model"), ("pruned", "model"), ("plain", "model"), ("run", "plan")]
)
def test_python_and_the_command_line_show_the_same(folders, name, kind):
    shown = effir_integrations.show(str(folders[name]))
    assert shown.kind == kind
    printed = json.loads(json.dumps(shown.values))
    assert printed == effir_json("show", folders[name])
    assert str(shown) == effir("show", folders[name]).stdout


def test_it_says_which_libraries_load_a_folder(folders):
    shown = [str(effir_integrations.show(folders[name])) for name in ("pruned", "plain")]
    pruned, whole = (" ".join(text.split()) for text in shown)
    assert "model type effir_llama: loads with this package or trust_remote_code" in pruned
    assert "pruned from base; model type llama: any library loads it" in whole
    assert whole.count("10 (was 48)") == 3


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        effir_integrations.show(tmp_path / "nowhere")
