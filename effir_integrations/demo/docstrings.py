"""A known-item retrieval set made on the spot from the docstrings of Python's standard library.

Every Python installation carries a few thousand short, well written English texts of which the
first paragraph says in other words what the rest explains. The first paragraph becomes the query;
qualified name, signature and the rest become the one document that answers it. The sources are
parsed, never imported, so that building the set runs no code and needs no network.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

from effir_integrations.files import check_target, new_folder

from ..progress import progress_bar

logger = logging.getLogger(__name__)

MINIMUM_QUERY_WORDS = 3
"""A shorter first paragraph ("Constructor.") names no particular item."""
MAXIMUM_QUERY_WORDS = 64
"""A longer first paragraph is a description, not a question that somebody would type."""
MINIMUM_DOCUMENT_WORDS = 5
"""A shorter rest leaves nothing but the name to find the document by."""

_SKIPPED_FOLDERS = frozenset({"test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"})
_FILES = (Path("corpus.jsonl"), Path("queries.jsonl"), Path("qrels") / "test.tsv")
_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n")
_WORD = re.compile(r"[A-Za-z]{2,}")
# "getopt(args, options) -> opts, args" restates the signature, which the document holds as well.
_USAGE = re.compile(r"[\w.]+\s*\(.*\)\s*($|->|=)|[\w.]+\(\w+\s*:")

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, kw_only=True)
class KnownItem:
    """One query and the one document that answers it."""

    name: str
    """Qualified name, `module.Class.method`; the document's identifier and title."""
    query: str
    """The docstring's first paragraph on one line."""
    text: str
    """The signature (none for a module), then the rest of the docstring."""


def build_docstring_corpus(
    out: Path, *, library: Path | None = None, show_progress: bool = False
) -> Path:
    """Write a BEIR folder of known items from the docstrings of a Python library.

    The same sources and Python give the same bytes: items are sorted by qualified name, and
    nothing depends on the order in which a file system lists its files. The number of items, about
    2,000, differs with the version of Python.

    Args:
        out: Folder to write (`corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`). An earlier corpus
            there is replaced; a folder that holds anything else is refused.
        library: Folder of Python sources; by default the running interpreter's standard library.
        show_progress: Draw a progress bar over the source files.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: The library's sources are not there, or hold no usable docstring.
        FileExistsError: `out` is a file, or a folder that is not such a corpus.
    """
    out = Path(out)
    check_target(out, force=True)
    library = Path(sysconfig.get_path("stdlib")) if library is None else Path(library)
    found = starmap(_known_item, read_docstrings(library, show_progress=show_progress))
    items = _distinct(item for item in found if item is not None)
    if not items:
        raise FileNotFoundError(_no_sources(library, "no docstring of two paragraphs"))
    _write(out, items)
    logger.info("wrote %d known items from %s to %s", len(items), library, out)
    return out


def _no_sources(library: Path, found: str) -> str:
    return (
        f"expected the .py sources of a Python library in {library}, found {found}; install a "
        "Python that keeps its sources (python.org, pyenv, conda, or the full python3 package) or "
        "pass library=FOLDER"
    )


def _sources(library: Path) -> list[Path]:
    """List the source files of public modules, sorted."""
    sources = []
    for folder, children, files in os.walk(library):
        # site-packages is no identifier, so installed packages, which can be many, are not walked.
        children[:] = [name for name in children if _is_public_module(name)]
        sources += [
            Path(folder, name)
            for name in files
            if name.endswith(".py") and _is_public_module(name.removesuffix(".py"))
        ]
    return sorted(sources)


def _is_public_module(name: str) -> bool:
    return name.isidentifier() and _is_public(name) and name not in _SKIPPED_FOLDERS


def _is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def read_docstrings(
    library: Path | None = None, *, show_progress: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Yield qualified name, signature (none for a module) and docstring of all that is public.

    Args:
        library: Folder of Python sources; by default the running interpreter's standard library.
        show_progress: Draw a progress bar over the source files.

    Raises:
        FileNotFoundError: There are no sources.
    """
    library = Path(sysconfig.get_path("stdlib")) if library is None else Path(library)
    sources = _sources(library)
    if not sources:
        raise FileNotFoundError(_no_sources(library, "no Python source file"))
    bar = progress_bar(sources, desc="Reading docstrings", unit="file", shown=show_progress)
    for source in bar:
        yield from _docstrings_of_file(source, library)


def _docstrings_of_file(source: Path, library: Path) -> Iterator[tuple[str, str, str]]:
    try:
        with warnings.catch_warnings():
            # An invalid escape in somebody else's source is no news to whoever runs this.
            warnings.simplefilter("ignore")
            tree = ast.parse(source.read_bytes(), filename=str(source))
    except (SyntaxError, ValueError) as error:
        logger.warning("skipped %s, which this Python cannot parse: %s", source, error)
        return
    parts = source.relative_to(library).with_suffix("").parts
    module = ".".join(part for part in parts if part != "__init__")
    if not module:
        return
    yield module, "", ast.get_docstring(tree) or ""
    for name, node in _definitions(tree, module):
        yield name, _signature(node), ast.get_docstring(node) or ""


def _definitions(parent: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    """Yield public functions, classes and methods, also those defined under `if` or `try`."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not _is_public(node.name):
                continue
            name = f"{prefix}.{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, name)
        elif isinstance(node, ast.stmt | ast.ExceptHandler):
            yield from _definitions(node, prefix)


def _signature(node: _Definition) -> str:
    """Write a definition's name and arguments; a class has those of its `__init__`."""
    if isinstance(node, ast.ClassDef):
        constructors = [
            child
            for child in node.body
            if isinstance(child, ast.FunctionDef) and child.name == "__init__"
        ]
        arguments = f"({ast.unparse(constructors[0].args)})" if constructors else ""
        return f"class {node.name}{arguments}"
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def _known_item(name: str, signature: str, docstring: str) -> KnownItem | None:
    """Split a docstring into query and document; None where it makes no good known item."""
    paragraphs = _PARAGRAPH_BREAK.split(docstring.strip(), maxsplit=1)
    if len(paragraphs) < 2:
        return None
    query = _encodable(" ".join(paragraphs[0].split()))
    rest = _encodable(paragraphs[1].strip())
    words = [word for word in query.split() if _WORD.search(word)]
    if not MINIMUM_QUERY_WORDS <= len(words) <= MAXIMUM_QUERY_WORDS:
        return None
    # "Returns one of:" only introduces the list that follows it.
    if _USAGE.match(query) or query.endswith(":") or len(rest.split()) < MINIMUM_DOCUMENT_WORDS:
        return None
    return KnownItem(name=name, query=query, text=f"{signature}\n{rest}" if signature else rest)


def _encodable(text: str) -> str:
    r"""Replace lone surrogates, which an escape like `\ud800` writes and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _distinct(items: Iterable[KnownItem]) -> list[KnownItem]:
    """Sort by name and keep the first item of each name and of each query.

    Two documents that answer the same query would both be right, while only one is judged so.
    """
    names: set[str] = set()
    queries: set[str] = set()
    kept = []
    # The sort is stable: of a name defined twice, under `if` and `else`, the first one stays.
    for item in sorted(items, key=lambda item: item.name):
        if item.name in names or item.query.casefold() in queries:
            continue
        names.add(item.name)
        queries.add(item.query.casefold())
        kept.append(item)
    return kept


def _write(out: Path, items: list[KnownItem]) -> None:
    with new_folder(out, force=True) as folder:
        (folder / "qrels").mkdir()
        corpus, queries, qrels = (folder / name for name in _FILES)
        _write_lines(
            corpus, (_json(_id=item.name, title=item.name, text=item.text) for item in items)
        )
        # Some scorers drop a document that has its query's identifier, hence the prefix.
        _write_lines(queries, (_json(_id=f"q:{item.name}", text=item.query) for item in items))
        judgements = (f"q:{item.name}\t{item.name}\t1" for item in items)
        _write_lines(qrels, ["query-id\tcorpus-id\tscore", *judgements])


def _json(**fields: str) -> str:
    return json.dumps(fields, ensure_ascii=False)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
