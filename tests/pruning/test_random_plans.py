"""Random plans, up to three on each other: sliced is masked, and every folder gives one answer.

`EFFIR_PLANS` and `EFFIR_SEED` set how many are drawn and from what.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import fresh
import numpy as np
import pytest
from random_encoders import ModelChoices, shown, write_folder
from random_plans import TEXTS, TOLERANCE, Step, carry_out, draw_step, draw_steps
from sentence_transformers import SentenceTransformer

from effir_integrations import load
from effir_integrations.model.identity import BaseIdentity

PLANS = int(os.environ.get("EFFIR_PLANS", "30"))
SEED = os.environ.get("EFFIR_SEED", "14")
BASES = range(PLANS // 2)
AT_ONCE = 9
"""How many of these are not among the slow tests."""
"""Each is pruned once, twice or thrice: twice on average."""

ELSEWHERE = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "effir_integrations":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[1])
for folder in sys.stdin.read().split("\\n"):
    model = SentenceTransformer(
        folder, device="cpu", trust_remote_code=True, model_kwargs={"dtype": "auto"}
    )
    np.save(folder + "/elsewhere.npy", model.encode(texts, batch_size=1))
assert "effir_integrations" not in sys.modules
"""


def run(number: int, folder: Path) -> list[Path]:
    """Carry out the plans of one base, and return the folders they made."""
    model, count = draw_steps(f"{SEED}:{number}")
    source, steps, made = write_folder(model, folder), [], []
    for turn in range(count):
        try:
            base = BaseIdentity.of(load(source, device="cpu")[0].model)
            steps.append(draw_step(f"{SEED}:{number}:{turn}", base))
            source = carry_out(steps[-1], source, folder / f"out{turn}")
        except Exception as error:
            told = "\n  ".join(map(shown, (model, *steps)))
            name = f"EFFIR_SEED={SEED} {number}:{turn}"
            raise AssertionError(f"{name}: {type(error).__name__}: {error}\n  {told}") from error
        made.append(source)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[Path]]:
    """Folders by the number of their base, each made once."""
    made: dict[int, list[Path]] = {}

    def folders_of(number: int) -> list[Path]:
        if number not in made:
            made[number] = run(number, tmp_path_factory.mktemp(f"base{number}"))
        return made[number]

    return folders_of


@pytest.mark.parametrize(
    "number",
    [pytest.param(x, marks=[pytest.mark.slow] if x >= AT_ONCE else []) for x in BASES],
)
def test_sliced_is_masked_and_disk_is_memory(
    number: int, folders: Callable[[int], list[Path]]
) -> None:
    assert folders(number)


def test_without_the_package_the_vectors_are_the_same(
    folders: Callable[[int], list[Path]],
) -> None:
    made = [folder for number in BASES[:AT_ONCE] for folder in _whole(folders, number)]
    done = fresh.run(["-c", ELSEWHERE, json.dumps(TEXTS)], given="\n".join(map(str, made)))
    assert done.returncode == 0, done.stderr
    for folder in made:
        here = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "auto"})
        expected = here.encode(TEXTS, batch_size=1)
        size = max(1.0, float(np.abs(expected).max()))
        found = np.load(folder / "elsewhere.npy")
        np.testing.assert_allclose(found / size, expected / size, atol=TOLERANCE, rtol=0)


def _whole(folders: Callable[[int], list[Path]], number: int) -> list[Path]:
    try:
        return folders(number)
    except AssertionError:  # told by its own test
        return []


KEPT: dict[str, tuple[ModelChoices, tuple[Step, ...]]] = {}


@pytest.mark.parametrize("name", KEPT)
def test_plans_that_once_failed_work(name: str, tmp_path: Path) -> None:
    model, steps = KEPT[name]
    source = write_folder(model, tmp_path)
    for turn, step in enumerate(steps):
        source = carry_out(step, source, tmp_path / f"out{turn}")
