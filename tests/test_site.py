"""The site: its links and anchors, its navigation, the pages that are made of the source."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
import site_pages
import typer
import yaml
from api_page import api_page
from cli_page import cli_page
from pages import ROOT

import effir_integrations
from effir_integrations.cli import app

MADE = set(site_pages.PAGES)
PACKAGE = ROOT / "effir_integrations"
SOURCES = site_pages.files()
WRITTEN = [source for source in SOURCES if source.suffix in (".md", ".txt")]


def titles(node) -> list[str]:
    """Return the pages below an entry of the navigation, in order."""
    if isinstance(node, str):
        return [node]
    inside = node.values() if isinstance(node, dict) else node
    return [page for part in inside for page in titles(part)]


def navigation() -> list[str]:
    return titles(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors that a forge gives the headings of a page."""
    heads = re.findall(r"^#+ (.*)", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("source", WRITTEN, ids=str)
def test_links_and_anchors_lead_somewhere(source):
    page = ROOT / source
    text = without_code(page.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", text):
        there = (page.parent / target) if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.resolve()), f"{target}#{anchor}"
    site_pages.moved(source, SOURCES)  # and none leads out of the site


def test_every_page_is_in_the_navigation_once():
    pages = [str(page) for page in SOURCES.values() if page.suffix == ".md"]
    assert sorted(navigation()) == sorted([*pages, *MADE])


def test_llms_txt_has_the_pages_of_the_navigation_in_order():
    text = site_pages.moved(PurePosixPath("llms.txt"), SOURCES) + site_pages.MADE
    named = re.findall(r"^\* \[[^]]+\]\(([^)]+)\): \S", text, re.MULTILINE)
    assert [page for page in named if page not in MADE] == [
        page for page in navigation() if page not in MADE
    ]
    assert MADE <= set(named)


def test_the_reference_has_every_public_name_and_no_other():
    heads = re.findall(r"^### (\w+)$", api_page(), re.MULTILINE)
    assert sorted(heads) == sorted(effir_integrations.__all__)


def test_the_reference_gives_signature_arguments_and_errors_as_the_source_has_them():
    entry = api_page().partition("\n### mini_path\n")[0].partition("\n### load\n")[2]
    assert entry.lstrip().startswith("```python\nload(\n    name: ")
    arguments, _, errors = entry.partition("**Raises**")
    for name in ("precision", "bidirectional", "compile"):
        assert re.search(rf"^\* `{name}`: \S", arguments, re.MULTILINE), name
    assert re.search(r"^\* `ValueError`: \S", errors, re.MULTILINE)


def test_a_name_without_a_home_is_refused(monkeypatch):
    monkeypatch.setattr("api_page.public_names", lambda: {"nobody": "errors"})
    with pytest.raises(ValueError, match="errors.py defines no nobody with a docstring"):
        api_page()


def test_the_page_of_the_command_line_has_every_verb_with_every_option():
    parts = re.split(r"^## effir (\S+)\n", cli_page(), flags=re.MULTILINE)
    entries = dict(zip(parts[1::2], parts[2::2], strict=True))
    commands = typer.main.get_command(app).commands
    assert list(entries) == list(commands)
    for verb, command in commands.items():
        for parameter in command.params:
            for name in parameter.opts:
                shown = name.startswith("-") and not getattr(parameter, "hidden", False)
                assert not shown or name in entries[verb], f"{verb} {name}"


@cache
def messages() -> str:
    """Return the source of the package, its strings joined, the values in them left open."""
    paths = (ROOT / "effir_integrations").rglob("*.py")
    source = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    joined = re.sub(r'"\n\s*f?"', "", source)
    return re.sub(r"\{[^{}]+\}|%[.,\d]*[dsfr]", "\0", joined)


def is_said(quoted: str) -> bool:
    """Whether the package has a message with this in it, `...` for each of its values."""
    return quoted.replace("...", "\0") in messages()


def test_every_message_that_troubleshooting_quotes_is_one_of_the_package():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [x for x in re.findall(r"^\* Symptom: `([^`]+)`", text, re.MULTILINE) if " " in x]
    assert len(quoted) >= 20
    assert not [message for message in quoted if not is_said(message)]
    assert not is_said("... is not empty; choose another planet")


def test_every_symptom_has_a_cause_and_a_cure():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    items = re.findall(r"^\* (.*?)(?=\n\*|\n\n)", text + "\n", re.DOTALL | re.MULTILINE)
    for item in items:
        assert re.fullmatch(r"Symptom: .+\\\n  Cause: .+\\\n  Cure: .+", item, re.DOTALL), item


def test_every_figure_of_the_page_that_helps_choose_is_measured():
    figures = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    prose = without_code((ROOT / "docs" / "choose.md").read_text(encoding="utf-8"))
    claims = re.sub(r"`[^`]*`|\S*[a-z]-?\d\S*", "", prose)  # commands and names of models
    found = re.findall(r"\d+\.\d+", claims)
    assert len(found) > 15
    assert not [x for x in found if not re.search(rf"(?<![\d.]){re.escape(x)}(?!\d)", figures)]


def test_how_it_works_names_code_that_is_there_and_is_short():
    text = (ROOT / "docs" / "how.md").read_text(encoding="utf-8")
    assert len(text.split()) < 900
    named = re.findall(r"`((?:[a-z_]+\.)+)(\w+)(\.\w+)?`", text)
    places = [x for x in named if (PACKAGE / x[0].split(".")[0]).is_dir()]
    assert len(places) >= 10
    for module, name, method in places:
        path = PACKAGE / (module.rstrip(".").replace(".", "/") + ".py")
        source = path.read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), (module, name)
        assert not method or f"    def {method[1:]}(" in source, (module, name, method)


def test_every_equation_is_followed_by_the_function_that_computes_it():
    text = (ROOT / "docs" / "how.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?:## |\*\*)", text.partition("## The paper")[2], flags=re.MULTILINE)
    with_equations = [x for x in sections if "```text" in x]
    assert len(with_equations) >= 7
    for section in with_equations:
        assert re.search(r"\]\(\.\./effir_integrations/\S+\.py\)", section), section


def test_a_link_to_a_function_leads_to_its_place_in_the_reference(monkeypatch):
    text = site_pages.moved(PurePosixPath("docs/how.md"), SOURCES)
    assert "[`slim`](api.md#slim)" in text
    assert "../effir_integrations" not in text
    monkeypatch.setattr("site_pages.public_names", dict)
    with pytest.raises(ValueError, match="analyze.py is linked to, but no public function"):
        site_pages.moved(PurePosixPath("docs/how.md"), SOURCES)
