"""The site, built once for all of its tests, and what its HTML files have."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FETCHED = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src"}
"""Elements that a browser loads by itself, and the attribute that says what."""

LINKS = "search", "index", "next", "prev"
"""Kinds of ``link`` that are not loaded."""


class Page(HTMLParser):
    """What an HTML file has: names to link to, links, files that it loads, and elements.

    Attributes:
        ids: The names.
        links: The targets of its links.
        loads: What a browser loads with it.
        count: The number of elements by name.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes one element."""
        self.count[tag] = self.count.get(tag, 0) + 1
        given = {name: value for name, value in attrs if value is not None}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if FETCHED.get(tag) in given and given.get("rel") not in LINKS:
            self.loads.append(given[FETCHED[tag]])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it, where warnings are errors."""
    for package in ("sphinx", "furo", "myst_nb", "sphinx_copybutton", "latex2mathml"):
        pytest.importorskip(package, reason=f"needs {package}, of the extra docs")
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-c", "docs", "."]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    """The site's HTML files by path."""
    return {path: Page(path) for path in site.rglob("*.html")}
