"""The built site: it has each public name, fetches nothing, and no link in it is dead."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser import Opened, until

from .conftest import Page
from .test_sources import ROOMS

pytestmark = pytest.mark.slow
Pages = dict[Path, Page]
REMOTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)


def test_each_public_name_is_on_the_page_of_its_room(site: Path, pages: Pages) -> None:
    missing = [
        f"{module}.{name}"
        for room, (module,) in ROOMS.items()
        for name in import_module(module).__all__
        if f"{module}.{name}" not in pages[site / "docs" / "api" / f"{room}.html"].ids
        and not isinstance(getattr(import_module(module), name), ModuleType)
    ]
    assert missing == ["pyro_vae.__version__"]  # the first line of the changelog has it


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: Pages) -> None:
    for path, page in pages.items():
        assert not [load for load in page.loads if REMOTE.match(load)], path
    for path in site.rglob("*.css"):
        text = path.read_text()
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", text), path


def test_every_link_and_file_is_there(site: Path, pages: Pages) -> None:
    """Pages, anchors, pictures, styles and scripts; the texts of papers are elsewhere."""
    dead = []
    for path, page in pages.items():
        for target in {*page.links, *page.loads}:
            parts = urlsplit(target)
            if parts.scheme:
                assert parts.scheme in ("http", "https", "data", "mailto"), target
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[file].ids if file in pages else set()
            found = file.is_file() and site in (file, *file.parents)
            if not found or (parts.fragment and unquote(parts.fragment) not in anchors):
                dead.append(f"{path.relative_to(site)}: {target}")
    assert not dead


def test_formulas_are_mathml(pages: Pages) -> None:
    assert sum(page.count.get("math", 0) for page in pages.values()) > 400
    assert not [path for path in pages if "MathJax" in path.read_text()]


def test_a_reader_starts_searches_and_reads(site: Path, opened: Opened) -> None:
    with opened(site / "docs" / "start.html") as page:
        page.goto((site / "index.html").as_uri())  # it leads on by itself
        page.wait_for_url("**/docs/index.html")
        assert page.locator("h1").inner_text().startswith("pyro_vae")
        assert page.locator("article img").evaluate("image => image.naturalWidth > 0")
        page.locator(".sidebar-search").fill("khat")
        page.locator(".sidebar-search").press("Enter")
        page.wait_for_url("**/search.html*")
        until(page, "document.querySelectorAll('#search-results li a').length > 0")
        found = page.locator("#search-results li a").all_inner_texts()
        assert any("evaluation" in each for each in found)
        # Words that are in the titles of icons too are marked on the page that is found.
        page.goto(f"{(site / 'search.html').as_uri()}?q=k-hat")
        until(page, "document.querySelectorAll('#search-results li a').length > 0")
        page.locator("#search-results li a").first.click()
        until(page, "document.querySelectorAll('.highlighted').length > 0")


def test_a_formula_is_drawn(site: Path, opened: Opened) -> None:
    """Fractions and sums have the height of two lines, where plain text has one."""
    with opened(site / "docs" / "api" / "evaluation.html") as page:
        page.wait_for_timeout(100)
        heights = page.locator("div.formula math").evaluate_all(
            "each => each.map((e) => e.getBoundingClientRect().height)"
        )
        line = page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)")
        assert heights
        assert min(heights) > 0
        assert max(heights) > 2 * line
        assert page.locator("dl.py pre .copybtn, dl.py button.copybtn").count() > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1400])
@pytest.mark.parametrize(
    "name",
    [
        "docs/index",
        "docs/api/objectives",
        "docs/swapping_parts",
        "docs/refusals",
        "notebooks/00_the_lecture",
        "notebooks/07_holes_and_tables",
    ],
)
def test_no_page_is_wider_than_its_window(
    name: str,
    width: int,
    scheme: str,
    site: Path,
    opened: Opened,
    screenshot: Callable[[Any, str], None],
) -> None:
    """Wide code, tables and formulas scroll in boxes of their own."""
    with opened(site / f"{name}.html", width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelector('.content').scrollWidth") <= width
        missing = "[...document.images].filter((i) => i.complete && !i.naturalWidth).length"
        assert page.evaluate(missing) == 0
        screenshot(page, f"site-{name.replace('/', '-')}-{width}-{scheme}")


def test_no_link_of_a_page_is_called_as_a_file(site: Path, pages: Pages) -> None:
    """It has the page's title instead."""
    called = re.compile(r">([\w./-]+\.(?:md|ipynb))(?:</span>)?</a>")
    found = {path: called.findall(path.read_text()) for path in pages if "docs" in path.parts}
    assert not {path.name: names for path, names in found.items() if names}
    studies = re.search(r"<h1>(.*?)<a", (site / "docs" / "studies.html").read_text())
    assert studies is not None
    link = rf'href="studies\.html"><span class="[^"]*">{re.escape(studies[1])}</span></a>'
    assert re.search(link, (site / "docs" / "reporting.html").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "docs/refusals",
        "docs/log_likelihood",
        "notebooks/01_svi_from_scratch",
        "notebooks/04_importance_weighted_log_likelihood",
        "notebooks/07_holes_and_tables",
    ],
)
def test_the_right_end_of_a_table_is_reached(name: str, site: Path, opened: Opened) -> None:
    """On a phone: where a table is wider, a box around it scrolls, and the text stays."""
    with opened(site / f"{name}.html", 375) as page:
        tables = page.locator("article table").evaluate_all(
            """tables => tables.map((table) => {
                for (let box = table; box.tagName !== "ARTICLE"; box = box.parentElement)
                    if (["auto", "scroll"].includes(getComputedStyle(box).overflowX))
                        box.scrollLeft = box.scrollWidth;
                return table.getBoundingClientRect().right;
            })"""
        )
        assert tables
        assert max(tables) <= 375
