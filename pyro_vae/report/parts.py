"""What a page is made of: texts, tables, charts, pictures and an explorer, in sections."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

__all__ = [
    "Chart",
    "Drawn",
    "Explore",
    "Key",
    "Lines",
    "Part",
    "Picture",
    "Points",
    "Section",
    "Table",
    "Text",
    "as_json",
]


@dataclass(frozen=True)
class Part:
    """A part of a section, which the template of its name writes."""

    template = ""


@dataclass(frozen=True)
class Text(Part):
    """A paragraph; its look is ``"number"``, ``"doubt"`` or plain."""

    text: str
    look: str = "plain"
    template = "text.html"


@dataclass(frozen=True)
class Lines(Part):
    """Titles with a text each."""

    lines: Mapping[str, str]
    template = "lines.html"


@dataclass(frozen=True)
class Table(Part):
    """A table, whose first column names the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    template = "table.html"


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        name: What it stands for.
        colour: Its colour.
        mark: A character, or the style of a line.
    """

    name: str
    colour: str
    mark: str


@dataclass(frozen=True)
class Drawn:
    """A chart of Bokeh, with what is beside it.

    Attributes:
        figure: The chart.
        legend: The legend.
        numbers: The numbers that it shows, for who cannot see it; None for those of examples.
    """

    figure: Any
    legend: Sequence[Key]
    numbers: Table | None


@dataclass(frozen=True)
class Chart(Part):
    """A chart of a name that no other has, with a caption and what it shows in words."""

    name: str
    drawn: Drawn
    caption: str
    alt: str
    template = "chart.html"


@dataclass(frozen=True)
class Points(Chart):
    """A chart of examples, of which a slider chooses one; with small pictures if there are any."""

    points: Sequence[tuple[float, float, str]] = ()
    thumbnail: tuple[int, int] | None = None
    template = "points.html"


@dataclass(frozen=True)
class Picture(Part):
    """A picture by the address of its data, in pixels of the page."""

    source: str
    caption: str
    alt: str
    width: int
    height: int
    template = "picture.html"


@dataclass(frozen=True)
class Explore(Part):
    """An explorer of a decoder.

    Attributes:
        name: A name that no other on the page has.
        spec: What the script reads.
        note: Why there are grids in place of a decoder; empty if there are none.
        latents: The latents that have a slider, the most active first.
        classes: How many classes have a button.
    """

    name: str
    spec: Mapping[str, Any]
    note: str
    latents: Sequence[Mapping[str, Any]]
    classes: int
    template = "explorer.html"


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    name: str
    title: str
    parts: Sequence[Part]


def as_json(value: object) -> Markup:
    """JSON inside a script element, which no text in it can end.

    Example:
        >>> from pyro_vae.report.parts import as_json
        >>> print(as_json(["</script>"]))
        ["\\u003c/script>"]
    """
    return Markup(json.dumps(value).replace("<", "\\u003c"))
