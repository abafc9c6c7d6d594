"""Find the small decoder that comes with the package."""

from __future__ import annotations

from pathlib import Path

MINI = "effir-mini"
"""Its name, which stands for its folder wherever this package takes a model."""


def mini_path() -> str:
    """Return the folder of effir-mini, a Sentence Transformers model of eight layers.

    Other libraries take it as any folder: `SentenceTransformer(mini_path())`.

    Raises:
        FileNotFoundError: The package was installed without it.
    """
    folder = Path(__file__).resolve().parents[1] / "data" / MINI
    if not (folder / "modules.json").is_file():
        raise FileNotFoundError(
            f"{folder} is not there, which comes with the package; reinstall it: "
            "pip install --force-reinstall --no-deps effir-integrations"
        )
    return str(folder)
