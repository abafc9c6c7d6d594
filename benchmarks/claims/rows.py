"""The rows of the claims: each is measured once, and found again by all that it depends on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from encode_parts import environment

from effir_integrations.files import read_json, write_json

from .texts import content_hash, processor


class NotMeasured(LookupError):
    """Something is not there, and this run is not to make it."""


class Rows:
    """What was measured so far, in a file that is whole at any moment."""

    def __init__(self, path: Path, device: str | None = None) -> None:
        self.path = path
        self.device = device
        self.rows: dict[str, Any] = {}
        if path.is_file():
            self.rows = read_json(path, "rows of this script")
        self.used: dict[str, dict[str, Any]] = {}
        """Those that this run asked for."""
        self.measuring = True
        """Whether what is missing is measured."""

    def check_measuring(self, what: str) -> None:
        """Refuse to make something while nothing is to be measured.

        Raises:
            NotMeasured: It is so.
        """
        if not self.measuring:
            raise NotMeasured(f"{what} was not measured")

    def row(
        self, kind: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return a row's values.

        Args:
            kind: What is measured.
            settings: All that the values depend on.
            measure: Called where no row of the same kind and settings is in the file.

        Raises:
            NotMeasured: There is none, and none is to be measured.
        """
        key = content_hash([kind, settings])[:16]
        if key not in self.rows:
            self.check_measuring(f"{kind} of {settings}")
            start = time.perf_counter()
            values = measure()
            self.rows[key] = {
                "kind": kind,
                "settings": settings,
                "values": values,
                "seconds": round(time.perf_counter() - start, 1),
                "date": date.today().isoformat(),
                "environment": {"processor": processor(self.device), **environment()},
                "threads": torch.get_num_threads(),
            }
            write_json(self.path, self.rows)
        self.used[key] = self.rows[key]
        values = self.rows[key]["values"]
        return dict(values)
