from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def holds(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


def direct_dependencies(python: str = "3.11") -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    requirements = [x for x in map(Requirement, lines) if holds(x, python)]
    found = {canonical(requirement.name): requirement for requirement in requirements}
    found.pop(canonical(PROJECT["name"]))
    return found


def constraints(python: str) -> dict[str, Requirement]:
    """Return the constraints that hold on one version of Python; a package has one at most."""
    found: dict[str, Requirement] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if holds(requirement, python):
            name = canonical(requirement.name)
            assert name not in found, f"{name} has two constraints on Python {python}"
            found[name] = requirement
    return found


def pinned_version(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def make(folder: Path, *arguments: str) -> str:
    """Return what make would run."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    result = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ["Makefile", "pyproject.toml", "constraints.txt"]:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_has_one_pin_within_the_range_of_pyproject(python: str):
    pins = constraints(python)
    dependencies = direct_dependencies(python)

    assert set(pins) == set(dependencies)
    for name, requirement in dependencies.items():
        assert requirement.specifier.contains(pinned_version(pins[name])), name


def test_torch_is_pinned_in_the_constraints_and_free_in_pyproject():
    operators = {specifier.operator for specifier in direct_dependencies()["torch"].specifier}

    assert operators == {">="}
    for python in PYTHONS:
        assert pinned_version(constraints(python)["torch"]) == Version("2.13.0")


@pytest.mark.parametrize(
    ("target", "extras", "command"),
    [
        ("demo", {"demo"}, "effir demo"),
        ("test", {"all", "dev"}, "-m pytest"),
        ("check", {"all", "dev"}, "mypy"),
    ],
)
def test_make_installs_torch_then_the_package_then_runs(
    checkout: Path, target: str, extras: set[str], command: str
):
    lines = make(checkout, target).splitlines()
    installs = [line for line in lines if " pip install " in line]

    assert [line.split()[-1] for line in installs][0] == "torch"
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    (named,) = re.findall(r'-e "\.\[(.*)\]"$', installs[1])
    assert set(named.split(",")) == extras <= set(EXTRAS)
    assert command in lines[-1]
    assert lines.index(installs[1]) < len(lines) - 1


def test_make_tests_another_python_in_an_environment_of_its_own(checkout: Path):
    lines = make(checkout, "test-python", "PYTHON=/usr/bin/python3.12").splitlines()
    start = next(line for line in lines if "-m venv" in line)
    installs = [line for line in lines if " pip install " in line]
    runs = next(line for line in lines if "-m pytest" in line)

    assert start == "/usr/bin/python3.12 -m venv --clear .venv-python3.12"
    assert len(installs) == 2
    assert all(line.startswith(".venv-python3.12/bin/python -m pip") for line in installs)
    assert " .venv-python3.12/bin/python -m pytest" in runs
    assert " .venv/" not in "\n".join(lines)


def test_make_rebuilds_the_environment_only_for_changed_requirements(checkout: Path):
    (checkout / ".venv").mkdir()
    now = time.time()
    for age, name in enumerate(["demo.stamp", "dev.stamp", "torch.stamp"]):
        (checkout / ".venv" / name).touch()
        os.utime(checkout / ".venv" / name, (now - 10 * age, now - 10 * age))
    for name in ["pyproject.toml", "constraints.txt"]:
        os.utime(checkout / name, (now - 100, now - 100))

    assert "pip install" not in make(checkout, "demo", "test", "check")
    for name in ["pyproject.toml", "constraints.txt"]:
        os.utime(checkout / name, (now + 100, now + 100))
        assert "-m venv --clear" in make(checkout, "demo"), name
        os.utime(checkout / name, (now - 100, now - 100))


def test_make_keeps_the_hub_offline(checkout: Path):
    with (checkout / "Makefile").open("a") as file:
        file.write("\nshow:\n\t@echo offline=$$HF_HUB_OFFLINE\n")
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("MAKE") and key != "HF_HUB_OFFLINE"
    }

    result = subprocess.run(
        ["make", "show"], cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "offline=1"


def test_every_version_of_python_that_is_tested_is_allowed():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())

    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == PYTHONS
    assert workflow["jobs"]["tests"]["steps"][-1]["run"].startswith("make test-python PYTHON=")
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    named = [x.split(" :: ")[-1] for x in PROJECT["classifiers"] if "Python :: 3." in x]
    assert named == PYTHONS


def test_what_is_cited_is_this_version_under_its_licence():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    assert (cited["title"], cited["version"]) == (PROJECT["name"], PROJECT["version"])
    assert cited["license"] == PROJECT["license"]
    assert cited["references"][0]["identifiers"][0]["value"] == "arXiv:2512.20612"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_the_ci_script_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_importing_the_package_loads_no_optional_package():
    code = "import sys, effir_integrations; print(*{name.split('.')[0] for name in sys.modules})"

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )

    loaded = set(result.stdout.split())
    assert "effir_integrations" in loaded
    optional = {"faiss", "ir_measures", "datasets", "peft", "matplotlib", "pandas"}
    assert loaded.isdisjoint(optional | {"pyserini", "llama_index"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel, and the sources it was built from."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy: the build leaves folders behind.
    for package in ["effir_integrations", "llama_index"]:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ["pyproject.toml", "setup.py", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, check=True
    )
    (built,) = folder.glob("*.whl")
    return built, source


def test_the_wheel_holds_the_data_the_type_marker_the_licence_and_the_command(
    wheel: tuple[Path, Path],
):
    built, source = wheel
    with zipfile.ZipFile(built) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    sources = {
        path.relative_to(source).as_posix()
        for path in (source / "effir_integrations").rglob("*")
        if path.is_file()
    }
    assert {name for name in sources if name.endswith((".py", ".jsonl", "py.typed"))} <= set(files)
    data = {name for name in sources if name.startswith("effir_integrations/data/")}
    assert data <= set(files)
    assert any(name.startswith("effir_integrations/data/effir-mini/") for name in data)
    assert not [name for name in files if name.startswith(("tests/", "benchmarks/"))]
    # an __init__.py further up would hide LlamaIndex itself, whose packages share the namespace
    (shim,) = (name for name in files if name.startswith("llama_index/"))
    assert shim == "llama_index/embeddings/effir/__init__.py"
    (metadata,) = (text for name, text in files.items() if name.endswith(".dist-info/METADATA"))
    assert b"License-Expression: Apache-2.0" in metadata
    page = metadata.decode().partition("\n\n")[2]  # where links within the repository lead nowhere
    assert page.startswith("# effir-integrations") and "effir.compress(" in page
    assert not re.findall(r"!\[|\]\((?!https?:)", page)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)
    (commands,) = (text for name, text in files.items() if name.endswith("entry_points.txt"))
    assert b"effir = effir_integrations.cli:main" in commands
    # vLLM calls it in each of its processes
    plugins = commands.partition(b"[vllm.general_plugins]\n")[2].splitlines()
    name, place = (part.strip() for part in plugins[0].decode().split("="))
    assert name == "effir"
    assert callable(EntryPoint(name, place, "vllm.general_plugins").load())


def test_the_wheel_works_away_from_the_clone(wheel: tuple[Path, Path], tmp_path: Path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel[0]) as archive:
        archive.extractall(installed)
    code = (
        "import sys, effir_integrations as effir; from effir_integrations.cli import main; "
        "print(effir.mini_path()); sys.argv = ['effir', 'demo', '--help']; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )

    place, *printed = result.stdout.splitlines()
    assert Path(place) == (installed / "effir_integrations" / "data" / "effir-mini").resolve()
    assert any("--model" in line for line in printed)


def test_another_model_than_our_own_is_there_for_development_only():
    holding = [name for name, lines in EXTRAS.items() if any("minilm" in line for line in lines)]
    assert holding == ["dev"]
    assert not any("minilm" in line for line in PROJECT["dependencies"])
