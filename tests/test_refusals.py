"""Each refusal of the package has a row in ``docs/refusals.md``, with a right program close by."""

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE, PAGE = ROOT / "pyro_vae", ROOT / "docs" / "refusals.md"
HEADER = ["where", "refused", "passes close by", "test"]
NO_REFUSALS = {"NotImplementedError"}
"""What a base class leaves to its subclasses."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Row(NamedTuple):
    where: str
    refused: str
    passes: str
    test: str


def is_refusal(node: ast.AST) -> bool:
    """Whether it raises an exception that is made there: no bare ``raise``, and no caught one."""
    if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
        return False
    return ast.unparse(node.exc.func) not in NO_REFUSALS


def raising(node: ast.AST, place: str) -> set[str]:
    """The functions below a node that raise, by their dotted place."""
    found = set[str]()
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, Function | ast.ClassDef)
        found |= raising(child, f"{place}.{child.name}" if named else place)
        if is_refusal(child):
            found.add(place)
    return found


@functools.cache
def refusals() -> set[str]:
    found = set[str]()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        place = module.removesuffix(".__init__")
        found |= raising(ast.parse(path.read_text()), place)
    return found


@functools.cache
def rows() -> list[Row]:
    """Those of the tables that have the header."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), flags=re.MULTILINE):
        header, _, *lines = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in table.splitlines()
        ]
        if header == HEADER:
            found += [Row(*(cell.strip("`") if i in (0, 3) else cell for i, cell in enumerate(c)))
                      for c in lines]  # fmt: skip
    return found


@functools.cache
def names_in(file: str) -> set[str]:
    """The tests of a file, those of a class as ``Class::test``."""
    path = ROOT / file
    if not path.is_file():
        return set()
    found = set[str]()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, Function)]
            found |= {f"{node.name}::{each.name}" for each in inner}
        elif isinstance(node, Function):
            found.add(node.name)
    return {name for name in found if name.split("::")[-1].startswith("test_")}


def test_each_refusal_has_one_row() -> None:
    listed = [row.where for row in rows()]
    missing = sorted(refusals() - set(listed))
    assert not missing, (
        f"docs/refusals.md has no row for {', '.join(missing)}: write what is refused there, a "
        "right program or value next to that border, and the test in which it passes; if there "
        "is none, write one, such as in tests/test_borders.py"
    )
    twice = sorted({where for where in listed if listed.count(where) > 1})
    assert not twice, f"docs/refusals.md has several rows for {', '.join(twice)}: keep one of each"


def test_no_row_is_of_a_function_that_is_gone() -> None:
    gone = sorted({row.where for row in rows()} - refusals())
    assert not gone, (
        f"docs/refusals.md has rows for {', '.join(gone)}, which raise nothing any more or have "
        "another name: remove or rename the rows"
    )


def test_each_row_names_a_test_that_there_is() -> None:
    wrong = [
        f"{row.test} ({row.where})"
        for row in rows()
        if row.test.partition("::")[2] not in names_in(row.test.partition("::")[0])
    ]
    assert not wrong, (
        f"docs/refusals.md names tests that are not there: {', '.join(wrong)}; write file::test, "
        "or file::Class::test, of a test in which the right program passes"
    )


def test_each_row_says_what_is_refused_and_what_passes() -> None:
    assert len(rows()) > 200, "the tables were not read"
    empty = [row.where for row in rows() if not (row.refused and row.passes)]
    assert not empty, f"docs/refusals.md: fill the cells of {', '.join(empty)}"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n    raise ValueError('no')", {"m.f"}),
        ("class A:\n    def f(self):\n        raise own('no') from error", {"m.A.f"}),
        ("def f():\n    def g():\n        if x:\n            raise KeyError(1)", {"m.f.g"}),
        ("def f():\n    raise NotImplementedError('later')", set()),
        ("def f():\n    try:\n        g()\n    except OSError as e:\n        raise", set()),
        ("def f():\n    try:\n        g()\n    except OSError as e:\n        raise e", set()),
        ("def f():\n    raise KeyboardInterrupt", set()),
    ],
)
def test_refusals_are_found(code: str, found: set[str]) -> None:
    assert raising(ast.parse(code), "m") == found
