"""What the site is built from: each page has its place, and each public name its room's page."""

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

import pyro_vae

from .conftest import ROOT

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text()
ROOMS = {
    path.stem: re.findall(r"automodule:: (\S+)", path.read_text())
    for path in DOCS.glob("api/*.md")
}
MORE = "distributions", "report", "storage", "training"
"""Rooms with a page that are not names of the package itself."""


def listed() -> list[str]:
    """The documents of all tables of contents, by path from the root."""
    found = []
    for tree in re.findall(r"```{toctree}\n(.*?)```", INDEX, flags=re.DOTALL):
        entries = [line for line in tree.splitlines() if line and not line.startswith(":")]
        names = [re.sub(r".*<(.*)>$", r"\1", entry) for entry in entries]
        found += [str((DOCS / name).resolve().relative_to(ROOT)) for name in names]
    return found


def test_every_page_has_one_place() -> None:
    pages = [*DOCS.glob("*.md"), *DOCS.glob("api/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    expected = {str(path.relative_to(ROOT).with_suffix("")) for path in pages} - {"docs/index"}
    outside = {"CHANGELOG", "CONTRIBUTING", "docs/analytic_kl/results"}
    assert sorted(listed()) == sorted(expected | outside)


def test_each_public_room_has_a_page() -> None:
    modules = [n for n in pyro_vae.__all__ if isinstance(getattr(pyro_vae, n), ModuleType)]
    assert ROOMS.keys() == {"pyro_vae", *modules, *MORE}


@pytest.mark.parametrize("room", ROOMS)
def test_a_page_is_of_its_room(room: str) -> None:
    (name,) = ROOMS[room]
    module = getattr(pyro_vae, room, None) or import_module(name)
    assert module is import_module(name) or room == "pyro_vae"
    assert import_module(name).__all__


@pytest.fixture
def formulas(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("latex2mathml", reason="needs latex2mathml, of the extra docs")
    monkeypatch.syspath_prepend(DOCS)
    yield import_module("_site.formulas")
    sys.modules.pop("_site.formulas")


def texts(path: Path) -> list[str]:
    """The formulas in a module's docstrings."""
    code = path.read_text()
    blocks = re.findall(r"\.\. math:: ((?:.|\n)+?)\n\n", code)
    return [*re.findall(r":math:`([^`]+)`", code), *blocks]


def test_formulas_become_mathml(formulas: Any) -> None:
    found = [text for path in ROOT.glob("pyro_vae/**/*.py") for text in texts(path)]
    assert len(found) > 200
    for text in found:
        tree = ElementTree.fromstring(formulas.mathml(text, "inline"))
        assert tree.tag.endswith("math")
        assert "\\" not in "".join(tree.itertext())


@pytest.mark.parametrize("text", [r"\nosuch x", r"\begin{aligned} a &= b \end{aligned}"])
def test_a_formula_that_the_converter_does_not_know_is_an_error(formulas: Any, text: str) -> None:
    with pytest.raises(ValueError, match="which latex2mathml does not know"):
        formulas.mathml(text, "block")


@pytest.mark.parametrize(
    ("text", "spaced"),
    [(r"\log p", True), (r"\log_{10} p", True), (r"\log (p)", False), (r"\mu p", False)],
)
def test_a_function_stands_apart_from_a_letter(formulas: Any, text: str, spaced: bool) -> None:
    """As in TeX. An index of the function stays its index: the name has no sibling more."""
    tree = ElementTree.fromstring(formulas.mathml(text, "inline"))
    assert any(each.get("rspace") == "0.167em" for each in tree.iter()) == spaced
    for index in tree.iter("{http://www.w3.org/1998/Math/MathML}msub"):
        assert len(index) == 2


def test_a_minus_after_an_equality_is_a_sign(formulas: Any) -> None:
    signs = [r"a = -b", r"a - b"]
    assert ['form="prefix"' in formulas.mathml(each, "inline") for each in signs] == [True, False]


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("sphinx", reason="needs sphinx, of the extra docs")
    monkeypatch.syspath_prepend(DOCS)
    yield import_module("_site.titles")
    sys.modules.pop("_site.titles")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[a.md](a.md)", "[](a.md)"),
        (
            "see [a.md](a.md#part), [docs/a.md](../docs/a.md)",
            "see [](a.md#part), [](../docs/a.md)",
        ),
        ("[b.ipynb](../notebooks/b.ipynb)", "[](../notebooks/b.ipynb)"),
        ("[What is a?](a.md)", None),
        ("[aa.md](a.md), [a.md](aa.md)", None),
        ("[no.md](no.md)", None),  # a file that is no page
        ("[a.md](https://example.org/a.md)", None),
    ],
)
def test_a_link_that_is_called_as_its_page_gets_the_title(
    titles: Any, given: str, expected: str | None
) -> None:
    found = titles.titled(given, "docs/page", {"docs/a", "docs/aa", "notebooks/b"})
    assert found == (given if expected is None else expected)
