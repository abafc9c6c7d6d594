"""Options and functions cannot disagree: each default and each text stands in one place."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
import typer

from effir_integrations.cli import app
from effir_integrations.cli.settings import field_texts, options_of
from effir_integrations.corpus.on_ray import ClusterConfig
from effir_integrations.corpus.to_file import encode_to_file
from effir_integrations.data.calibration import load_calibration
from effir_integrations.data.training_examples import load_training
from effir_integrations.encoder.loading import load
from effir_integrations.evaluation.compare import compare
from effir_integrations.evaluation.evaluate import evaluate
from effir_integrations.pruning.analyze import analyze
from effir_integrations.pruning.config import DropConfig
from effir_integrations.pruning.export import export
from effir_integrations.training.mine import mine
from effir_integrations.training.score import score

VERBS = {command.name: command.callback for command in app.registered_commands}
OPTIONS = {
    name: {x.name: x for x in typer.main.get_command(app).commands[name].params} for name in VERBS
}
WITH_SETTINGS = [name for name, verb in VERBS.items() if hasattr(verb, "settings")]


def test_eight_stages_take_their_options_from_their_settings() -> None:
    assert WITH_SETTINGS == (
        ["compress", "plan", "drop", "slim", "reconstruct", "adapt", "finetune", "distill"]
    )


@pytest.mark.parametrize("verb", WITH_SETTINGS)
def test_every_field_is_an_option_or_says_why_not(verb) -> None:
    settings = VERBS[verb].settings
    texts = field_texts(settings.config)
    for field in fields(settings.config):
        if field.name in settings.left_out:
            assert field.name not in OPTIONS[verb]
            assert len(settings.left_out[field.name].split()) > 2
            continue
        option = OPTIONS[verb][field.name]
        assert option.default == (None if field.name in settings.parsers else field.default)
        assert option.help == texts[field.name]
        assert option.help[0].isupper() or option.help.startswith("lambda")
        assert option.help.endswith((".", ").")), option.help


@pytest.mark.parametrize("verb", WITH_SETTINGS)
def test_no_field_is_left_out_for_nothing(verb) -> None:
    settings = VERBS[verb].settings
    known = {field.name for field in fields(settings.config)}
    assert {*settings.left_out, *settings.names, *settings.parsers} <= known


@pytest.mark.parametrize(
    ("verb", "function", "renamed"),
    [
        ("analyze", analyze, {"texts": "calibration"}),
        ("analyze", load, {}),
        ("analyze", load_calibration, {"limit": "texts"}),
        ("reconstruct", load_calibration, {"limit": "texts"}),
        ("export", export, {}),
        ("slim", load_training, {}),
        ("finetune", load_training, {}),
        ("mine", mine, {"use_faiss": "faiss"}),
        ("score", score, {}),
        ("encode", encode_to_file, {"normalize_embeddings": "normalize"}),
        ("encode", ClusterConfig, {"normalize_embeddings": "normalize"}),
        ("evaluate", evaluate, {"run_path": "run_file"}),
        ("compare", compare, {}),
    ],
)
def test_what_an_option_and_a_function_share_has_one_default(verb, function, renamed) -> None:
    shared = 0
    for name, parameter in inspect.signature(function).parameters.items():
        option = OPTIONS[verb].get(renamed.get(name, name))
        if option is None or parameter.default is inspect.Parameter.empty or option.required:
            continue
        if name in ("dtype", "precision", "drop_same_id") and parameter.default is None:
            assert option.default == "auto"  # as None, which people cannot type
        else:
            assert getattr(option.default, "value", option.default) == parameter.default, name
        shared += 1
    assert shared


def test_a_verb_hands_on_what_was_given_and_the_defaults_of_the_rest() -> None:
    given = {field.name: field.default for field in fields(DropConfig)}
    assert MISSING not in given.values()
    found = []

    @options_of(DropConfig, parsers={"mlp_layers": lambda text: tuple(map(int, text))})
    def kept(config) -> None:
        found.append(config)

    kept(**{**given, "mlp_layers": "13"})
    kept(**{**given, "mlp_layers": None, "block": 2})
    assert found == [DropConfig(mlp_layers=(1, 3)), DropConfig(block=2)]


def test_help_and_refusals_of_arguments_need_no_torch() -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from effir_integrations.cli import app
for verb in {list(VERBS)!r}:
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0, verb
    assert CliRunner().invoke(app, [verb, "--no-such-option"]).exit_code == 2, verb
for line in (
    ["compress", "m", "out", "--keep-neurons", "1.5"],
    ["drop", "run", "--mlp", "-1"],
    ["drop", "run", "--mlp-layers", "3-"],
    ["reconstruct", "run", "--method", "magic"],
    ["slim", "run", "--train", "t.jsonl", "--sparsity", "2"],
    ["finetune", "m", "out", "--train", "t.jsonl", "--learning-rate", "0"],
    ["distill", "m", "out", "--target", "moon"],
):
    assert CliRunner().invoke(app, line).exit_code == 2, line
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
