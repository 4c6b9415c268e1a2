"""A browser, and pages in it that report what goes wrong."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
SHOTS = "PYRO_VAE_SCREENSHOTS"
"""The variable that names a folder for the pictures of pages, which are then kept."""

LOCAL = "data:", "file:"
DRAWN = """[...document.querySelectorAll("[data-explorer]")].every((e) => e.dataset.drawn) &&
    (!window.Bokeh || (Bokeh.documents.length > 0 && Bokeh.documents.every((d) => d.is_idle)))"""
"""Whether all explorers and charts of a page are drawn."""

Opened = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a network."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.exists():
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


def until(page: Any, condition: str) -> None:
    """Waits until an expression is true; the page's policy forbids Playwright's own way."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise TimeoutError(condition)


@pytest.fixture
def opened(browser: Any) -> Opened:
    """Opens a page; at its end, nothing must have gone wrong in it or been asked for."""

    @contextmanager
    def open_page(path: Path, width: int = 1400, scheme: str = "light") -> Iterator[Any]:
        wrong: list[str] = []
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
        page = context.new_page()

        def noted(said: str) -> None:
            wrong.append(said)

        page.on("console", lambda m: noted(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: noted(str(error)))
        page.on("dialog", lambda dialog: noted(dialog.message))
        page.on("request", lambda r: None if r.url.startswith(LOCAL) else noted(r.url))
        page.goto(path.as_uri())
        until(page, DRAWN)
        yield page
        context.close()
        assert not wrong

    return open_page


@pytest.fixture
def screenshot() -> Callable[[Any, str], None]:
    """Keeps a picture of a page, where a folder is named for it."""

    def keep(page: Any, name: str) -> None:
        if SHOTS in os.environ:
            page.screenshot(path=f"{os.environ[SHOTS]}/{name}.png", full_page=True)

    return keep
