"""Run a converted folder in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import import_extra
from .encoder import OUTPUT, PROMPT_LENGTH, GraphEncoder

FILE = Path("onnx") / "model.onnx"
_ERRORS_ONLY = 3


class OnnxEncoder(GraphEncoder):
    """Encodes with a folder of `effir convert --to onnx`; needs onnxruntime, tokenizers and numpy.

    Vectors are those of the folder that was converted, but for the rounding of its dtype. Several
    threads may call one encoder.

    Example:
        ```python
        encoder = OnnxEncoder("model-onnx")
        queries = encoder.encode_query(["how do plants make sugar?"])
        documents = encoder.encode_document(["Photosynthesis stores light as sugar."])
        ```
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[Any] | None = None,
    ) -> None:
        """Open the graph.

        Args:
            folder: That `effir convert --to onnx` wrote.
            threads: Of one operation; None leaves that to onnxruntime.
            providers: Execution providers in the words of onnxruntime; None is the CPU.

        Raises:
            FileNotFoundError: It is no such folder.
            ImportError: onnxruntime or tokenizers is not installed.
            ValueError: A file is damaged.
        """
        runtime = import_extra("onnxruntime", "onnx")
        super().__init__(folder, file=FILE, to="onnx", threads=threads)
        options = runtime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # plans for memory are kept by shape, and texts come in all of them
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        chosen = ["CPUExecutionProvider"] if providers is None else list(providers)
        try:
            self._session = runtime.InferenceSession(str(self._path), options, providers=chosen)
        except Exception as error:  # of pybind, with classes of its own
            raise ValueError(
                f"{self._path} cannot be opened by onnxruntime {runtime.__version__} "
                f"({' '.join(str(error).split())[:300]}); convert the model again"
            ) from error

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""
        return int(self._session.get_outputs()[0].shape[-1])

    @property
    def _takes_prompt_length(self) -> bool:
        return PROMPT_LENGTH in {one.name for one in self._session.get_inputs()}

    def _run(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        vectors: np.ndarray = self._session.run([OUTPUT], dict(inputs))[0]
        return vectors
