"""The script that looks for the next family knows the rows that are there, and tells why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fitting_families import look, one_of_each_kind

from effir_integrations.model.families import ARCHITECTURES


@pytest.mark.parametrize(
    ("name", "fits", "words"),
    [
        ("mistral", "llama", ""),
        ("xlm-roberta", "bert", ""),
        ("exaone4", "olmo2", ""),
        ("cohere", "", "nearest llama: no post_attention_layernorm"),
        ("phi", "", "resid_dropout"),
        ("t5", "", "is an encoder with a decoder"),
    ],
)
def test_a_type_is_found_to_fit_or_not(name, fits, words):
    found = look(name, one_of_each_kind())
    assert found.fits == fits and words in found.words


def test_a_row_that_cuts_something_else_does_not_fit():
    """The paths are all there; what they lead to is not what the row says."""
    llama = ARCHITECTURES["llama"]
    stays = {**llama.without_mlp, "input_layernorm": "identity"}
    for wrong, words in (
        (replace(llama, without_mlp=stays), "dropping the MLP of layer 0 is not a zeroed"),
        (replace(llama, width_setting="hidden_size"), "takes 48 neurons, and hidden_size is 32"),
        (replace(llama, mlp_inputs=("mlp.gate_proj",)), "fails"),
    ):
        assert words in look("llama", [wrong]).words
