from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from effir_integrations.demo.docstrings import build_docstring_corpus

SOURCE = '''\
"""Tools for the care of apple trees.

The functions of this module expect a healthy tree.
"""

class Tree:
    """A tree that bears apples every year.

    Its branches are numbered from the ground to the top.
    """

    def __init__(self, height: float = 2.0, *branches):
        """Plant."""

    def prune(self, branch, /, *, clean=True) -> int:
        """Cut one branch off
        close to the trunk.

        The wound is closed with wax when `clean` is true.
        """

    def _hidden(self):
        """Count the rings of the trunk.

        This needs a saw and cannot be undone.
        """

if True:
    async def harvest(tree):
        """Pick every ripe apple.

        Apples that fall are counted as picked.
        """
else:
    def harvest(tree):
        """Shake the whole tree until it is bare.

        This definition is never seen by a caller.
        """

def water(tree):
    """Give the tree enough water to live."""

def feed(tree):
    """Feed it.

    The query above has too few words.
    """

def measure(tree):
    """Measure the girth of the trunk.

    Rest too short.
    """

def graft(tree, twig):
    """graft(tree, twig) -> a tree of two kinds

    The first paragraph only repeats the signature.
    """

def kinds():
    """The kinds of apple are these:

    Boskoop, Elstar, Jonagold, Gala and Topaz.
    """
'''


def write_library(folder: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return folder


def docstring(query: str) -> str:
    return f'"""{query}\n\nThe rest has exactly seven words here.\n"""\n'


def read_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_corpus(out: Path) -> dict[str, str]:
    return {line["_id"]: line["text"] for line in read_lines(out / "corpus.jsonl")}


def read_bytes(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_first_paragraph_is_the_query_and_the_rest_is_the_document(tmp_path: Path):
    library = write_library(tmp_path / "library", {"garden/apple.py": SOURCE})

    out = build_docstring_corpus(tmp_path / "out", library=library)

    assert read_lines(out / "queries.jsonl") == [
        {"_id": "q:garden.apple", "text": "Tools for the care of apple trees."},
        {"_id": "q:garden.apple.Tree", "text": "A tree that bears apples every year."},
        {
            "_id": "q:garden.apple.Tree.prune",
            "text": "Cut one branch off close to the trunk.",
        },
        {"_id": "q:garden.apple.harvest", "text": "Pick every ripe apple."},
    ]
    documents = read_lines(out / "corpus.jsonl")
    assert [line["title"] for line in documents] == [line["_id"] for line in documents]
    assert read_corpus(out) == {
        "garden.apple": "The functions of this module expect a healthy tree.",
        "garden.apple.Tree": (
            "class Tree(self, height: float=2.0, *branches)\n"
            "Its branches are numbered from the ground to the top."
        ),
        "garden.apple.Tree.prune": (
            "prune(self, branch, /, *, clean=True) -> int\n"
            "The wound is closed with wax when `clean` is true."
        ),
        "garden.apple.harvest": "harvest(tree)\nApples that fall are counted as picked.",
    }
    assert (out / "qrels" / "test.tsv").read_text().splitlines() == [
        "query-id\tcorpus-id\tscore",
        "q:garden.apple\tgarden.apple\t1",
        "q:garden.apple.Tree\tgarden.apple.Tree\t1",
        "q:garden.apple.Tree.prune\tgarden.apple.Tree.prune\t1",
        "q:garden.apple.harvest\tgarden.apple.harvest\t1",
    ]


def test_tests_private_modules_and_installed_packages_are_left_out(tmp_path: Path):
    names = [
        "pear.py",
        "plum/__init__.py",
        "plum/test/test_plum.py",
        "plum/tests/test_plum.py",
        "idlelib/editor.py",
        "lib2to3/main.py",
        "site-packages/fig.py",
        "dist-packages/fig.py",
        "__pycache__/pear.py",
        "config-3.11-x86_64/python-config.py",
        "_plum.py",
        "_cherry/stone.py",
    ]
    files = {name: docstring(f"Fruit number {index} of many") for index, name in enumerate(names)}
    library = write_library(tmp_path / "library", files)

    out = build_docstring_corpus(tmp_path / "out", library=library)

    assert list(read_corpus(out)) == ["pear", "plum"]


def test_an_identical_query_is_kept_once(tmp_path: Path):
    files = {
        "b.py": docstring("The same few words"),
        "a.py": docstring("The SAME few words"),
        "c.py": docstring("Some other few words"),
    }
    library = write_library(tmp_path / "library", files)

    out = build_docstring_corpus(tmp_path / "out", library=library)

    assert list(read_corpus(out)) == ["a", "c"]


def test_sources_are_parsed_and_never_run(tmp_path: Path):
    trace = tmp_path / "trace"
    source = docstring("A module with side effects") + f"open({str(trace)!r}, 'w')\n"
    library = write_library(tmp_path / "library", {"effect.py": source})

    out = build_docstring_corpus(tmp_path / "out", library=library)

    assert list(read_corpus(out)) == ["effect"]
    assert not trace.exists()


def test_a_file_that_does_not_parse_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    files = {"broken.py": "def (:\n", "sound.py": docstring("A sound little module")}
    library = write_library(tmp_path / "library", files)

    out = build_docstring_corpus(tmp_path / "out", library=library)

    assert list(read_corpus(out)) == ["sound"]
    assert "broken.py" in caplog.text


def test_lone_surrogates_and_letters_beyond_ascii_can_be_written(tmp_path: Path):
    source = docstring("Größe of the \\ud800 letters")
    library = write_library(tmp_path / "library", {"letters.py": source})

    out = build_docstring_corpus(tmp_path / "out", library=library)

    assert [line["text"] for line in read_lines(out / "queries.jsonl")] == [
        "Größe of the ? letters"
    ]


def test_standard_library_gives_about_two_thousand_pairs_and_the_same_bytes_again(tmp_path: Path):
    library = Path(sysconfig.get_path("stdlib"))
    if not (library / "argparse.py").is_file():
        pytest.skip("this Python comes without the sources of its standard library")

    first = build_docstring_corpus(tmp_path / "first")
    # Another hash seed orders sets otherwise; another process shares no cache.
    code = (
        "import sys; from pathlib import Path; "
        "from effir_integrations.demo.docstrings import build_docstring_corpus; "
        "build_docstring_corpus(Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "second")],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )

    assert read_bytes(first) == read_bytes(tmp_path / "second")
    documents = read_corpus(first)
    queries = [line["text"] for line in read_lines(first / "queries.jsonl")]
    assert 1_500 <= len(documents) <= 2_500
    assert len(set(queries)) == len(queries) == len(documents)
    assert {"shutil.copytree", "json", "textwrap.dedent"} <= set(documents)
    for query in queries:
        assert query == " ".join(query.split())
        assert len(query.split()) >= 3


def test_file_system_order_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = {f"folder{i}/module{j}.py": docstring(f"Part {i} in {j} pieces of something")
             for i in range(3) for j in range(3)}  # fmt: skip
    library = write_library(tmp_path / "library", files)
    forwards = build_docstring_corpus(tmp_path / "forwards", library=library)
    walk = os.walk

    def reversed_walk(top: Path):
        for folder, children, names in walk(top):
            children.reverse()
            yield folder, children, names[::-1]

    monkeypatch.setattr(os, "walk", reversed_walk)
    backwards = build_docstring_corpus(tmp_path / "backwards", library=library)

    assert len(read_corpus(forwards)) == 9
    assert read_bytes(forwards) == read_bytes(backwards)


@pytest.mark.parametrize("files", [{}, {"only.pyc": ""}, {"bare.py": "x = 1\n"}])
def test_absent_sources_are_refused_with_what_to_do(tmp_path: Path, files: dict[str, str]):
    library = write_library(tmp_path / "library", files)

    with pytest.raises(FileNotFoundError, match="keeps its sources") as error:
        build_docstring_corpus(tmp_path / "out", library=library)

    assert str(library) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_earlier_corpus_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path):
    out = tmp_path / "data" / "out"
    build_docstring_corpus(
        out, library=write_library(tmp_path / "a", {"a.py": docstring("An older module text")})
    )

    build_docstring_corpus(
        out, library=write_library(tmp_path / "b", {"b.py": docstring("A newer module text")})
    )

    assert list(read_corpus(out)) == ["b"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits of this kind")
def test_folder_is_as_readable_as_any_other_new_folder(tmp_path: Path):
    library = write_library(tmp_path / "library", {"a.py": docstring("A plain module text")})

    out = build_docstring_corpus(tmp_path / "out", library=library)

    (tmp_path / "other").mkdir()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path):
    library = write_library(tmp_path / "library", {"a.py": docstring("A plain module text")})
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")

    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        build_docstring_corpus(out, library=library)

    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_failure_while_writing_leaves_the_earlier_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library = write_library(tmp_path / "library", {"a.py": docstring("A plain module text")})
    out = build_docstring_corpus(tmp_path / "out", library=library)
    before = read_bytes(out)
    real_open = Path.open

    def full_disk(self: Path, *arguments, **keywords):
        if self.name == "test.tsv":
            raise OSError(28, "No space left on device")
        return real_open(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build_docstring_corpus(out, library=library)
    monkeypatch.undo()

    assert read_bytes(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["library", "out"]
