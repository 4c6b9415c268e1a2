"""Formulas as MathML, made when the site is built: browsers draw it without a script or a font."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)

FUNCTION = re.compile(r"<mi>(log|ln|sin|exp|det|max|min)</mi>(?!<mo[^>]*>&#x00028;)")
"""A function's name before what is no bracket: TeX puts a space between the two."""

MINUS = re.compile(r"(<mo>&#x0003D;</mo>)<mo>(&#x02212;)</mo>")
"""A minus after "=", which is a sign."""


def mathml(text: str, display: str) -> str:
    """The MathML of a formula in TeX.

    Raises:
        ValueError: The formula has something that the converter does not know.
    """
    found: str = convert(" ".join(text.split()), display=display)
    unknown = re.findall(r"\\\w+|<mi>&amp;</mi>|<mi>&</mi>", found)
    if unknown:
        raise ValueError(f"formula {text!r}: got {unknown}, which latex2mathml does not know")
    found = FUNCTION.sub(r'<mo form="prefix" lspace="0em" rspace="0.167em">\1</mo>', found)
    return MINUS.sub(r'\1<mo form="prefix" lspace="0em" rspace="0em">\2</mo>', found)


def _write(writer: Any, node: nodes.Element, display: str) -> None:
    try:
        found = mathml(node.astext(), display)
    except Exception as error:  # each kind of the converter's, whose names say what is wrong
        LOG.warning("%s: %s", type(error).__name__, error, location=node)
        found = writer.encode(node.astext())
    tag = "div" if display == "block" else "span"
    writer.body.append(f'<{tag} class="formula">{found}</{tag}>')
    raise nodes.SkipNode


def inline(writer: Any, node: nodes.Element) -> None:
    """Writes a formula of a line."""
    _write(writer, node, "inline")


def block(writer: Any, node: nodes.Element) -> None:
    """Writes a formula that has lines of its own."""
    _write(writer, node, "block")


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
