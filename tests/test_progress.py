"""Bars are drawn where somebody sees them, unless it was said."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace

import pytest

import effir_integrations
from effir_integrations.progress import is_shown


class Terminal:
    def isatty(self):
        return True


@pytest.fixture
def shell(monkeypatch):
    """Stand in for IPython, and return the config of its shell."""
    config = {}
    found = SimpleNamespace(get_ipython=lambda: SimpleNamespace(config=config))
    monkeypatch.setitem(sys.modules, "IPython", found)
    return config


def test_what_was_asked_for_is_done(shell):
    shell["IPKernelApp"] = {}
    assert (is_shown(True), is_shown(False), is_shown(None)) == (True, False, True)


def test_a_notebook_and_a_terminal_are_watched_and_a_log_is_not(shell, monkeypatch):
    assert not is_shown(None)  # the tests' own standard error is kept
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert is_shown(None)


def test_without_ipython_nobody_asks_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not is_shown(None)


LOADERS = {"load_beir", "load_calibration", "load_training"}
"""They are parts of verbs, and take seconds."""


def test_every_verb_that_can_draw_a_bar_does_where_someone_watches():
    defaults = {}
    for name in effir_integrations.__all__:
        verb = getattr(effir_integrations, name)
        if inspect.isfunction(verb) and (
            asked := inspect.signature(verb).parameters.get("show_progress")
        ):
            defaults[name] = asked.default
    assert {name for name, default in defaults.items() if default is False} == LOADERS
    assert {default for name, default in defaults.items() if name not in LOADERS} == {None}
    assert len(defaults) == 20
