"""Run a verb of the command line in this process."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from effir_integrations.cli import app


def effir(*arguments):
    """Run a verb and return its result."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def effir_json(*arguments):
    """Run a verb that must end well and return the JSON that it prints."""
    result = effir(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments, code=2):
    """Run a verb that must fail with one line on standard error, and return that line."""
    result = effir(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]
