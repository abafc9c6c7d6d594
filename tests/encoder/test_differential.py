"""Our class against the stock one on random tiny encoders: no difference beyond rounding.

`EFFIR_CASES` and `EFFIR_SEED` set how many cases are drawn and from what; a failure is made
smaller and printed as choices, which can be kept below.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_encoders import (
    CallChoices,
    ModelChoices,
    Pair,
    draw_call,
    draw_model,
    make_pair,
    one_by_one,
    ours,
    shown,
    simpler,
)

CASES = int(os.environ.get("EFFIR_CASES", "200"))
SEED = os.environ.get("EFFIR_SEED", "14")
CALLS = 4
"""Of each model."""
TOLERANCE = 1e-5
"""In fp32, of the largest value of a vector: sums of another order."""


def difference(pair: Pair, call: CallChoices) -> str:
    """Say what is wrong with the vectors of our class; nothing if nothing is."""
    expected = one_by_one(pair.stock, call)
    failed = {text for text, x in expected.items() if isinstance(x, Exception)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            found = ours(pair, call, monkeypatch)
        except ValueError as error:
            # what the stock class cannot encode may be refused
            return "" if failed else f"ValueError: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    if len(found) != len(call.texts):
        return f"{len(found)} rows for {len(call.texts)} texts"
    if found.dtype != np.float32:
        return f"vectors are {found.dtype}"
    exact = one_by_one(pair.exact, call) if pair.exact is not None else {}
    for row, text in zip(found, call.texts, strict=True):
        if text in failed:
            wrong = _undefined(pair, call, row, text)
        elif exact:
            wrong = _further(row, expected[text], exact[text])
        else:
            wrong = _apart(row, expected[text])
        wrong = wrong or _length(pair, call, row)
        if wrong:
            return f"{wrong}, of {text[:40]!a}"
    return ""


def _apart(row: np.ndarray, expected: np.ndarray) -> str:
    if row.shape != expected.shape:
        return f"shape {row.shape}, not {expected.shape}"
    if np.array_equal(row, expected, equal_nan=True):
        return ""
    most = float(np.abs(row - expected).max())
    if most <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        return ""
    return f"cosine {_cosine(row, expected):.6f}, difference {most:.2g}"


def _further(row: np.ndarray, expected: np.ndarray, exact: np.ndarray) -> str:
    """Half precision rounds each batch in its own way: no further from fp32 than the stock is.

    Three times as far, or three roundings of 2 ** -8, for either may be near by chance.
    """
    if row.shape != expected.shape:
        return f"shape {row.shape}, not {expected.shape}"
    size = max(float(np.linalg.norm(exact)), 1e-9)
    far, stock = (float(np.linalg.norm(x - exact)) / size for x in (row, expected))
    if far <= max(3 * stock, 3 * 2**-8):
        return ""
    return f"bf16: {far:.3f} from fp32, stock {stock:.3f}, cosine {_cosine(row, expected):.6f}"


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / max(norms, 1e-30)


def _undefined(pair: Pair, call: CallChoices, row: np.ndarray, text: str) -> str:
    """What the stock class cannot encode has one answer, whatever else is in the batch."""
    if not np.isfinite(row).all():
        return "not finite where the stock class fails"
    try:
        alone = getattr(pair.ours, call.method)(text, **call.options)
    except Exception as error:
        return f"alone {type(error).__name__} where the stock class fails: {error}"
    wrong = _apart(row, alone)
    return f"depends on the batch where the stock class fails: {wrong}" if wrong else ""


def _length(pair: Pair, call: CallChoices, row: np.ndarray) -> str:
    unit = call.normalize or (pair.choices.heads[-1:] == ("unit",) and not call.truncate_dim)
    norm = float(np.linalg.norm(row))
    return f"length {norm:.5f}" if unit and norm and abs(norm - 1) > 1e-5 else ""


def check(model: ModelChoices, call: CallChoices, folder: Path) -> str:
    """Make the pair and compare one call."""
    folder.mkdir()
    return difference(make_pair(model, folder), call)


def smallest(
    model: ModelChoices, call: CallChoices, folder: Path, *, tries: int = 150
) -> tuple[ModelChoices, CallChoices, str]:
    """Return the plainest choices that fail as well, and how."""
    wrong = check(model, call, folder / "first")
    going = bool(wrong)
    while going and tries > 0:
        going = False
        options = [(model, x) for x in simpler(call)] + [(x, call) for x in simpler(model)]
        for one in options:
            tries -= 1
            try:
                now = check(*one, folder / f"try{tries}")
            except Exception:  # choices that do not go together
                continue
            if now and now.split()[0] == wrong.split()[0]:
                (model, call), wrong, going = one, now, True
                break
            if tries <= 0:
                break
    return model, call, wrong


def report(name: str, model: ModelChoices, call: CallChoices, wrong: str, folder: Path) -> str:
    """Describe a failure by what makes it again, and by what is left of it."""
    folder.mkdir()
    less_model, less_call, less = smallest(model, call, folder)
    return (
        f"case {name}: {wrong}\n  {shown(model)}\n  {shown(call)}\n"
        f"  smaller: {less}\n  {shown(less_model)}\n  {shown(less_call)}"
    )


def numbers(count: int) -> list[Any]:
    """Return the numbers of the models, of which those from `count` on are among the slow tests."""
    made = range(-(-CASES // CALLS))
    return [pytest.param(x, marks=[pytest.mark.slow] if x >= count else []) for x in made]


@pytest.mark.parametrize("number", numbers(30))
def test_random_encoders_give_the_vectors_of_the_stock_class(number: int, tmp_path: Path) -> None:
    model = draw_model(f"{SEED}:{number}")
    (tmp_path / "pair").mkdir()
    pair = make_pair(model, tmp_path / "pair")
    for turn in range(CALLS):
        call = draw_call(f"{SEED}:{number}:{turn}", model)
        wrong = difference(pair, call)
        if wrong:
            name = f"EFFIR_SEED={SEED} {number}:{turn}"
            pytest.fail(report(name, model, call, wrong, tmp_path / str(turn)), pytrace=False)


DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0, "partial_rotary_factor": 1.0}
KEPT: dict[str, tuple[ModelChoices, CallChoices]] = {
    "frequencies of a batch by its longest text, the prompt left out of the mean": (
        ModelChoices(
            config={"max_position_embeddings": 8, "rope_parameters": DYNAMIC},
            limited_by="folder",
            include_prompt=False,
            heads=("dense",),
        ),
        CallChoices(texts=("w", "w44 w3 w56 w10 w55 w34 w16 w32 w0 w50 ")),
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_once_differed_is_the_same(name: str, tmp_path: Path) -> None:
    wrong = check(*KEPT[name], tmp_path / "pair")
    assert not wrong
