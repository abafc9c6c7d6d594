"""The rooms of the package stand on those below them, in no circle, and no new one at the top."""

from __future__ import annotations

import ast
from pathlib import Path

import effir_integrations

ROOT = Path(effir_integrations.__file__).parent
FLOORS = (
    {"extras", "fields", "files", "html_table", "progress"},
    {"errors"},
    {"model", "data"},
    {"onnx"},
    {"encoder"},
    {"corpus", "training", "evaluation"},
    {"pruning", "adapters", "conversion", "pairing", "vocabulary"},
    {"pyserini"},
    {"demo"},
    {"cli"},
    {"__init__", "__main__"},
)
ON_ONE_FLOOR = {"extras", "fields", "files", "html_table", "progress"}


def modules() -> dict[str, Path]:
    """Return the modules below the package by their names within it."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return which modules of the package one imports, wherever in it; not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    inside = name.split(".") if name != "__init__" else []
    package = inside if path.name == "__init__.py" else inside[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                module = ".".join([*above, *filter(None, [module])])
            elif module.split(".")[0] != ROOT.name:
                continue
            module = module.removeprefix(ROOT.name).strip(".")
            for one in node.names:
                submodule = f"{module}.{one.name}".strip(".")
                found.add(submodule if submodule in known else module)
        elif isinstance(node, ast.Import):
            found |= {one.name.removeprefix(f"{ROOT.name}.") for one in node.names}
    return {module for module in found & known.keys() if module != name}


def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: imported(name, path, known) for name, path in known.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def test_only_the_rooms_of_the_map_stand_at_the_top() -> None:
    found = {room(name) for name in modules()}
    assert found == set().union(*FLOORS)


def test_imports_run_down() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{name} -> {other}"
        for name, others in arrows().items()
        for other in others
        if room(name) != room(other)
        and floor[room(other)] >= floor[room(name)]
        and not {room(name), room(other)} <= ON_ONE_FLOOR
    ]
    assert not wrong, wrong


def test_no_imports_run_in_a_circle() -> None:
    waiting = arrows()
    while ready := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert not waiting, f"a circle, or above one: {sorted(waiting)}"
