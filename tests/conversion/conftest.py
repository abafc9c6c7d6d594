"""Tracing a graph takes seconds, and that of one folder is the same in every test."""

from __future__ import annotations

import shutil

import pytest

from effir_integrations.conversion import onnx_file


@pytest.fixture(scope="module", autouse=True)
def each_folder_traced_once(tmp_path_factory):
    """Keep the graph of every folder that this module converts, and take it the next time."""
    kept = tmp_path_factory.mktemp("traced")
    trace, places = onnx_file._trace, {}

    def trace_once(encoder, path):
        name = str(encoder[0].model.name_or_path)
        if name not in places:
            places[name] = kept / str(len(places))
            places[name].mkdir()
            trace(encoder, places[name] / path.name)
        for file in places[name].iterdir():
            shutil.copy(file, path.parent / file.name)

    onnx_file._trace = trace_once
    yield
    onnx_file._trace = trace
