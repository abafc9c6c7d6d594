"""Every adapter needs its own extra and no other."""

from __future__ import annotations

import json
from importlib.util import find_spec

import fresh
import pytest

# adapter, the package it stands on, its extra, and what is called where importing needs nothing
TABLE = (
    ("effir_integrations.adapters.llama_index", "llama_index.core", "llama-index", None),
    ("effir_integrations.adapters.langchain", "langchain_core", "langchain", None),
    ("effir_integrations.adapters.haystack", "haystack", "haystack", None),
    ("effir_integrations.adapters.mteb", "mteb", "mteb", None),
    ("effir_integrations.pyserini", "pyserini", "pyserini", "register"),
)
ADAPTERS = [row[0] for row in TABLE]
PACKAGES = [row[1] for row in TABLE]

# one process for all: what is costly to import is imported once, and the adapters again and again
SCRIPT = """
import importlib, json, sys, warnings

warnings.simplefilter("ignore")
table = json.loads(sys.argv[1])

class Blocked:
    package = None

    def find_spec(self, name, path=None, target=None):
        if self.package and (name + ".").startswith(self.package + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked = Blocked()
sys.meta_path.insert(0, blocked)

def take_out(*packages):
    inside = [
        name
        for name in sys.modules
        if any((name + ".").startswith(package + ".") for package in packages)
    ]
    return {name: sys.modules.pop(name) for name in inside}

def attempt(name, call):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return {"imported": False, "error": str(error)}
    try:
        call and getattr(module, call)()
    except ImportError as error:
        return {"imported": True, "error": str(error)}
    return {"imported": True, "error": None}

outcome = {}
for _, package, _, _ in table:
    blocked.package = package
    take_out("effir_integrations.adapters", "effir_integrations.pyserini")
    taken = take_out(package)
    outcome[package] = {
        name: attempt(name, call if package == needed else None) for name, needed, _, call in table
    }
    sys.modules.update(taken)
print(json.dumps(outcome))
"""


@pytest.fixture(scope="module")
def outcome():
    """Package that is missing -> adapter -> whether it was imported, and the error."""
    missing = [name for name in PACKAGES if find_spec(name.split(".")[0]) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    done = fresh.run(["-c", SCRIPT, json.dumps(TABLE)])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("adapter", "package", "extra", "call"), TABLE, ids=ADAPTERS)
def test_an_adapter_without_its_package_names_the_extra(outcome, adapter, package, extra, call):
    result = outcome[package][adapter]
    assert f'pip install "effir-integrations[{extra}]"' in result["error"]
    assert "\n" not in result["error"]
    # where importing needs nothing, what needs it says so when it is called
    assert result["imported"] is (call is not None)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_other_adapters_do_without_it(outcome, package):
    others = {name: outcome[package][name] for name, needed, *_ in TABLE if needed != package}
    assert others == {name: {"imported": True, "error": None} for name in others}
    assert len(others) == len(TABLE) - 1
