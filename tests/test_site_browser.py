"""The built site in a browser: it is searched, walked through and filtered, on a phone and a desk.

It is built once for this file, and served on this machine; nothing else may be asked for anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import site_pages
from pages import ROOT
from test_site import navigation

SIZES = {"phone": (390, 844), "desk": (1280, 900)}
LOOKED_AT = ("", "results_table/", "llama_index/", "api/")
"""Start, Results, a page of a library, the reference."""
_EVERY = 4
"""Of the pages of the navigation, which are clicked: loading one takes most of a second."""
INSTALLED = 'which comes with: pip install -e ".[dev]", on Python 3.11 or later'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, as `make docs` builds it."""
    pytest.importorskip("zensical", reason=f"no zensical, {INSTALLED}")
    work = tmp_path_factory.mktemp("site")
    site_pages.gather(work / "build" / "pages")
    shutil.copyfile(ROOT / "mkdocs.yml", work / "mkdocs.yml")
    build = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(build, cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    line = site_pages.finish(work / "build" / "pages", work / "site")
    assert f"{len(navigation()) + 1} pages" in line
    return work / "site"


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser of this machine; none is downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason=f"no playwright, {INSTALLED}")
    path = os.environ.get("EFFIR_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in EFFIR_CHROMIUM")
    with api.sync_playwright() as playwright:
        # the sandbox needs rights that containers do not have; the pages are ours
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def watch(context: Any, address: str, wrong: list[str]) -> None:
    """Note what goes wrong on any page of a context, and whatever is asked of another host."""

    def asked(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            wrong.append(f"asks {request.url}")

    def answered(response: Any) -> None:
        if response.status >= 400:
            wrong.append(f"{response.status} {response.url}")

    def failed(request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page was left before it had all
            wrong.append(f"{request.failure} {request.url}")

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            wrong.append(f"console: {message.text}")

    context.on("request", asked)
    context.on("response", answered)
    context.on("requestfailed", failed)
    context.on("console", said)
    context.on("weberror", lambda error: wrong.append(f"error: {error.error}"))


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Open a page of the site; what goes wrong on any page until the end of the test fails it."""
    wrong: list[str] = []
    pages: dict[str, Any] = {}

    def new_page(size: str, **options: Any) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(60_000)  # machines are shared
        watch(context, address, wrong)
        return context.new_page()

    def open_page(path: str, size: str = "desk", **options: Any) -> Any:
        pages[size] = pages.get(size) or new_page(size, **options)
        pages[size].goto(address + path)
        return pages[size]

    yield open_page
    for page in pages.values():
        page.context.close()
    assert not wrong


def test_the_site_is_built_whole(site):
    assert (site / "llms.txt").is_file()
    assert (site / "results" / "gpu-nvidia-h200.json").is_file()


def overflow(page: Any) -> int:
    """Return by how many pixels a page is wider than its window."""
    return page.evaluate("document.body.scrollWidth - document.body.clientWidth")


def search(page: Any, words: str) -> Any:
    """Type into the search box, and return what it found once it says how much."""
    page.locator(".md-search__button").click()
    page.get_by_role("combobox", name="Search").fill(words)
    page.get_by_role("status").get_by_text("result").wait_for()
    return page.get_by_role("option")


@pytest.mark.parametrize("words", ["LoRA", "keep index", "GGUF"])
def test_search_finds_a_page_that_holds_the_words(words, visit):
    page = visit("")
    search(page, words).first.click()
    page.wait_for_url("**/*?h=*")
    text = page.locator("article").inner_text().lower()
    assert all(word in text for word in words.lower().split())


def test_search_finds_nothing_where_there_is_nothing(visit):
    assert search(visit(""), "xylophone").count() == 0


def fits(page: Any) -> None:
    """Hold a page against a phone and a desk."""
    for width, height in SIZES.values():
        page.set_viewport_size({"width": width, "height": height})
        assert overflow(page) == 0, f"{page.url} at {width} pixels"


def test_the_navigation_leads_to_every_page_and_is_walked_by_clicks(visit, address):
    page = visit("")
    links = page.locator(".md-nav--primary a.md-nav__link[href]:not([href^='#'])")
    wanted = (PurePosixPath(x) for x in navigation())
    names = (x.parent if x.name in ("index.md", "README.md") else x.with_suffix("") for x in wanted)
    pages = ["" if str(x) == "." else f"{x}/" for x in names]
    led = links.evaluate_all("links => links.map(link => link.href)")
    assert [x.removeprefix(address).partition("#")[0] for x in led] == pages
    for place in range(1, len(pages), _EVERY):
        links.nth(place).click()
        page.wait_for_url(f"{address}{pages[place]}")
        assert page.locator("article h1").inner_text().strip(), page.url
        fits(page)


def test_no_page_is_wider_than_its_window(visit):
    for path in LOOKED_AT:
        fits(visit(path, "phone"))
    wide = visit("results_table/", "phone").locator("#results .md-typeset__scrollwrap")
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")


def shown(page: Any, name: str) -> list[str]:
    """Return a column of the rows of the table that are seen."""
    head = page.locator("#results th").all_inner_texts()
    place = [x.strip() for x in head].index(name) + 1
    return page.locator(f"#results tbody tr:visible td:nth-child({place})").all_inner_texts()


def test_the_table_of_results_is_filtered_and_sorted(visit):
    page = visit("results_table/", "phone")
    rows = len(shown(page, "model"))
    assert rows > 200

    page.get_by_label("model").select_option("effir-mini")
    assert set(shown(page, "model")) == {"effir-mini"}
    page.get_by_label("method").select_option("reconstruct")
    page.get_by_label("data").select_option("docstrings")
    page.get_by_label("text", exact=True).fill("Fine-tuned 50%")
    assert shown(page, "variant") == [
        "4 MLPs dropped, 50% of the width gone (reconstruct), fine-tuned"
    ]
    assert page.locator("#results output").inner_text() == f"1 of {rows} rows"

    page.get_by_label("text", exact=True).fill("")
    for down in (False, True):
        page.get_by_role("button", name="nDCG@10").click()
        order = [float(x.split()[0]) for x in shown(page, "nDCG@10") if x]
        assert len(order) > 5
        assert order == sorted(order, reverse=down)
    for name in ("model", "data", "method"):
        page.get_by_label(name).select_option("")
    assert len(shown(page, "model")) == rows
    order = [x != "" for x in shown(page, "nDCG@10")]
    assert order == sorted(order, reverse=True)  # what was not measured comes last


def test_without_javascript_the_results_are_a_plain_table(visit):
    page = visit("results_table/", "phone", java_script_enabled=False)
    assert len(shown(page, "model")) > 200
    assert page.locator("#results form").count() == 0
