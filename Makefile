# Everything runs in .venv, which is made anew only when pyproject.toml or constraints.txt change.
#
#   make demo    compress a real decoder on real text, print the comparison table, ask the result
#   make test    run the test suite, but for its slow tests
#   make test-all  run all of it
#   make test-python PYTHON=python3.12   run the test suite on another Python
#   make check   lint, format and type checks
#   make docs    build the site into site/, with search and the reference
#   make dist    build the wheel and the source archive into dist/, and check them
#   make clean   remove the environments, the demo, the site and all caches
#
# The suite runs on every core, one process and one thread each: tiny models gain nothing from more.
# PYTHON=python3.12 chooses the interpreter; ARGS="..." is handed to the demo or to pytest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
ARGS ?=

# No target needs a hub, so none may fall back on one unnoticed.
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test test-all test-python check docs dist clean
.NOTPARALLEL:

demo: $(VENV)/demo.stamp
	$(BIN)/effir demo $(ARGS)

# Files go whole to one process, for the fixtures they share, in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

test: $(VENV)/dev.stamp
	$(PYTEST) $(ARGS)

test-all: $(VENV)/dev.stamp
	$(PYTEST) -m "" $(ARGS)

# In an environment of its own, .venv-python3.12. Its torch is the file on PyPI where no other index
# is configured, and on Linux that brings CUDA along: 5.5 GB; constraints.txt says how to avoid it.
test-python:
	$(MAKE) test VENV=.venv-$(notdir $(PYTHON))

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# An environment of its own: the reference is read from the source, so torch is not needed.
docs: $(VENV)-docs/stamp
	PYTHONPATH=. $(VENV)-docs/bin/python tools/site_pages.py gather build/pages
	$(VENV)-docs/bin/zensical build --clean --strict
	PYTHONPATH=. $(VENV)-docs/bin/python tools/site_pages.py finish build/pages site

dist: $(VENV)-dist/stamp
	rm -rf dist build/lib build/bdist.* *.egg-info
	$(VENV)-dist/bin/python -m build --no-isolation
	$(VENV)-dist/bin/twine check --strict dist/*

clean:
	rm -rf $(VENV) $(VENV)-* effir-demo build dist site .cache *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# torch comes first and alone: constraints.txt says why.
$(VENV)/torch.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp
	$(INSTALL) -e ".[demo]"
	touch $@

$(VENV)/dev.stamp: $(VENV)/torch.stamp
	$(INSTALL) -e ".[all,dev]"
	touch $@

$(VENV)-docs/stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 docs")'
	$(PYTHON) -m venv --clear $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --disable-pip-version-check -c constraints.txt zensical typer rich pyyaml
	touch $@

$(VENV)-dist/stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --disable-pip-version-check -c constraints.txt build twine setuptools
	touch $@
