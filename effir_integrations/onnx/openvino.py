"""Run a converted folder in OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import import_extra
from .encoder import PROMPT_LENGTH, GraphEncoder

FILE = Path("openvino") / "openvino_model.xml"


class OpenVinoEncoder(GraphEncoder):
    """Encodes with a folder of `effir convert --to openvino`; needs openvino, tokenizers and numpy.

    Vectors are those of the folder that was converted, but for the rounding of its dtype.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        device: str = "CPU",
        precision: str = "f32",
    ) -> None:
        """Compile the graph.

        Args:
            folder: That `effir convert --to openvino` wrote.
            threads: On a CPU; None leaves that to OpenVINO.
            device: In the words of OpenVINO.
            precision: It computes in: f32, bf16 or f16. Left to itself, OpenVINO takes bf16 where
                the hardware has it.

        Raises:
            FileNotFoundError: It is no such folder.
            ImportError: openvino or tokenizers is not installed.
            ValueError: A file is damaged.
        """
        openvino = import_extra("openvino", "openvino")
        super().__init__(folder, file=FILE, to="openvino", threads=threads)
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._model = openvino.Core().compile_model(str(self._path), device, options)
        except RuntimeError as error:
            raise ValueError(
                f"{self._path} cannot be compiled by OpenVINO {openvino.__version__} for {device} "
                f"({' '.join(str(error).split())[:300]}); convert the model again"
            ) from error

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return int(self._model.output(0).get_partial_shape()[-1].get_length())

    @property
    def _takes_prompt_length(self) -> bool:
        return any(PROMPT_LENGTH in one.get_names() for one in self._model.inputs)

    def _run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        # a request of its own, so that threads do not share results
        found = self._model.create_infer_request().infer(dict(inputs))
        vectors: np.ndarray = found[self._model.output(0)].copy()
        return vectors
