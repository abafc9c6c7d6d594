"""Gather the pages of the site, and look over the one that was built from them.

    python tools/site_pages.py gather build/pages   # then: zensical build --clean --strict
    python tools/site_pages.py finish build/pages site

The site has what the repository has, in one folder: the README is its first page, `docs/` lies at
the top, and the reference is made of the source.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path, PurePosixPath

from api_page import api_page, public_names
from cli_page import cli_page
from notebook_page import notebook_page
from results_page import results_page

ROOT = Path(__file__).resolve().parents[1]
FIRST = {"README.md": "index.md"}
"""Files whose page has another name."""
ALONE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "CITATION.cff")
FOLDERS = ("docs", "recipes", "skills")
PAGES = {"api.md": api_page, "cli.md": cli_page, "results_table.md": results_page}
"""Pages that are made of the source and of results."""
ASSETS = ("site.css", "results_table.js")
MADE = """* [API](api.md): signature and docstring of every public name
* [Command line](cli.md): help text and options of every verb
* [Results in one table](results_table.md): every row that was kept, by model, data and method
"""
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
_NESTED = re.compile(r"^  (?=\* )", re.MULTILINE)
_LOADED = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)"
)
_WORDS = ("LoRA", "keep", "GGUF")
_CODE = re.compile(r"(?<=<code>)[^<]+(?=</code>)")
_OPTION = re.compile(r"(?<![\w-])--?\w[\w-]+")


def gather(folder: Path) -> None:
    """Write every page and what it links to into a new folder.

    Raises:
        ValueError: A page links to a file that the site does not have.
    """
    shutil.rmtree(folder, ignore_errors=True)
    sources = files()
    for source, page in sources.items():
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in (".md", ".txt"):
            (folder / page).write_text(moved(source, sources), encoding="utf-8")
        elif source.suffix == ".ipynb":
            text = notebook_page(ROOT / source, (folder / page).parent)
            (folder / page).write_text(text, encoding="utf-8")
        else:
            shutil.copyfile(ROOT / source, folder / page)
    for name in ASSETS:
        shutil.copyfile(ROOT / "tools" / name, folder / name)
    for name, page_of in PAGES.items():
        (folder / name).write_text(page_of(), encoding="utf-8")
    with (folder / "llms.txt").open("a", encoding="utf-8") as lines:
        lines.write(MADE)


def files() -> dict[PurePosixPath, PurePosixPath]:
    """Return where each file of the repository lies in the site; both from the top."""
    found = {PurePosixPath(name): PurePosixPath(page) for name, page in FIRST.items()}
    found |= {PurePosixPath(name): PurePosixPath(name) for name in (*ALONE, "llms.txt")}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        source = PurePosixPath("notebooks", path.name)
        found[source] = source.with_suffix(".md")
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            source = PurePosixPath(path.relative_to(ROOT).as_posix())
            if path.is_file() and "__pycache__" not in source.parts:
                inside = source.relative_to("docs") if folder == "docs" else source
                found[source] = inside
    return found


def moved(source: PurePosixPath, sources: dict[PurePosixPath, PurePosixPath]) -> str:
    """Return the text of a file with links that lead where the files lie in the site.

    Raises:
        ValueError: A link leads to a file that the site does not have.
    """
    here = sources[source].parent

    def lead(match: re.Match[str]) -> str:
        target = PurePosixPath(os.path.normpath(source.parent / match[1]))
        if target.suffix == ".py" and target.parts[0] == "effir_integrations":
            return os.path.relpath("api.md", here).replace(os.sep, "/") + "#" + _function(target)
        if target not in sources:
            raise ValueError(f"{source} links to {match[1]}, which the site does not have")
        return os.path.relpath(sources[target], here).replace(os.sep, "/")

    text = _LINK.sub(lead, (ROOT / source).read_text(encoding="utf-8"))
    return _NESTED.sub("    ", text)  # Python's Markdown nests lists by four spaces


def _function(module: PurePosixPath) -> str:
    """Return the public function whose home a module of the package is.

    Raises:
        ValueError: It has none of its name.
    """
    home = ".".join(module.with_suffix("").parts[1:])
    if public_names().get(module.stem) != home:
        raise ValueError(f"{module} is linked to, but no public function has its name")
    return module.stem


def _unbroken(code: re.Match[str]) -> str:
    """Mark the options in a command, which a browser would break at their hyphens."""
    return _OPTION.sub(r'<span class="option">\g<0></span>', code[0])


def finish(folder: Path, site: Path) -> str:
    """Put the Markdown of each page beside it, and return what there is of the site in one line.

    Options in commands are marked in the pages, so that no line ends in one.

    Raises:
        ValueError: A page loads something from another host, or search does not find a word.
    """
    for page in folder.rglob("*.md"):  # what llms.txt names
        shutil.copyfile(page, site / page.relative_to(folder))
    pages = sorted(site.rglob("*.html"))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for address in _LOADED.findall(text):
            raise ValueError(f"{page} loads {address}; nothing may come from another host")
        page.write_text(_CODE.sub(_unbroken, text), encoding="utf-8")
    found = json.loads((site / "search.json").read_text(encoding="utf-8"))
    text = json.dumps(found, ensure_ascii=False)
    if missing := [word for word in _WORDS if word not in text]:
        raise ValueError(f"{site / 'search.json'} does not hold {', '.join(missing)}")
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    return f"{site}: {len(pages)} pages, {size / 1e6:.1f} MB"


if __name__ == "__main__":
    verb, *places = sys.argv[1:]
    if verb == "gather":
        gather(*map(Path, places))
    else:
        sys.stdout.write(finish(*map(Path, places)) + "\n")
