"""Whether `measure_claims.py` gives the same again: the rows of two runs, laid side by side.

Rows are the same where all that they depend on is the same; figures of time are left out. Ends with
an error where nDCG@10 differs by more than 0.002.

    python benchmarks/measure_claims.py --data scifact --work first
    python benchmarks/measure_claims.py --data scifact --work second --out again.md
    python benchmarks/repeat_claims.py first second
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.lab import ROWS_FILE

from effir_integrations import errors
from effir_integrations.files import read_json

ALLOWED = 0.002
"""Difference of nDCG@10 between two runs on one machine."""
COMPARED = {"quality": "ndcg", "isotropy": "cosine"}
"""Kind of row -> the value that is compared."""

Rows = Mapping[str, Mapping[str, Any]]


def differences(first: Rows, second: Rows) -> dict[str, list[float]]:
    """Return the differences of all rows that both runs have, by kind.

    Raises:
        ValueError: They share no quality row: other models, data or settings.
    """
    found: dict[str, list[float]] = {kind: [] for kind in COMPARED}
    for key in first.keys() & second.keys():
        kind = first[key]["kind"]
        if kind in COMPARED:
            one, other = (rows[key]["values"][COMPARED[kind]] for rows in (first, second))
            found[kind].append(abs(one - other))
    if not found["quality"]:
        raise ValueError(
            "the two runs have no row in common; give two --work folders of the same command"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how far two runs are apart, and fail where it is too far."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, nargs=2, help="--work folders of two runs")
    options = parser.parse_args(arguments)
    with errors.plain_errors(debug=False):
        rows = [read_json(work / ROWS_FILE, "rows of measure_claims.py") for work in options.work]
        found = differences(*rows)
    for kind, values in found.items():
        same = sum(value == 0 for value in values)
        largest = max(values, default=0.0)
        print(f"{kind}: {len(values)} rows, {same} the same, largest difference {largest:.5f}")
    if max(found["quality"]) > ALLOWED:
        sys.exit(f"nDCG@10 differs by more than {ALLOWED}")


if __name__ == "__main__":
    main()
