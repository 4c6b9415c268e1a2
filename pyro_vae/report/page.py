"""Pages: sections of texts, tables, charts and pictures as one HTML file without a network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pyro_vae.version import __version__

__all__ = ["Chart", "Explore", "Lines", "Part", "Picture", "Section", "Table", "Text", "rendered"]


@dataclass
class Part:
    """A part of a section, which a template writes."""

    template = ""


@dataclass
class Text(Part):
    """A paragraph; its kind is ``"number"``, ``"doubt"`` or nothing."""

    text: str
    kind: str = ""
    template = "text.html"


@dataclass
class Lines(Part):
    """Titles with a text each."""

    lines: Sequence[tuple[str, str]]
    template = "list.html"


@dataclass
class Table(Part):
    """A table, whose first column names the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    template = "table.html"


@dataclass
class Chart(Part):
    """A chart, with what it shows in words."""

    chart: Any
    caption: str
    alt: str
    div: Markup = field(default_factory=Markup)
    template = "chart.html"


@dataclass
class Picture(Part):
    """A picture by the address of its data, in pixels of the page."""

    source: str
    caption: str
    alt: str
    width: int
    height: int
    template = "image.html"


@dataclass
class Explore(Part):
    """An explorer."""

    name: str
    data: Mapping[str, Any]
    note: str
    latents: Sequence[Mapping[str, Any]]
    classes: Sequence[int]
    template = "explorer.html"

    @property
    def limit(self) -> float:
        """How far the plane reaches."""
        return float(self.data["limit"])

    @property
    def spec(self) -> Markup:
        """What the script reads; no text in it can end the element."""
        return Markup(json.dumps(self.data).replace("<", "\\u003c"))


@dataclass
class Section:
    """A section of a page."""

    name: str
    title: str
    parts: Sequence[Part]


def rendered(title: str, sections: Sequence[Section], examples: str = "", footer: str = "") -> str:
    """The page as a text.

    Arguments:
        title: Its title.
        sections: Its sections.
        examples: The sheet of examples, the address of a picture, for the tooltips of charts.
        footer: The last line.
    """
    parts = [part for section in sections for part in section.parts]
    charts = [part for part in parts if isinstance(part, Chart)]
    script, bokeh = Markup(), Markup()
    if charts:
        written, divs = components([part.chart for part in charts])
        for part, div in zip(charts, divs, strict=True):
            part.div = Markup(div)
        script = Markup(written)
        bokeh = Markup(Resources(mode="inline", components=["bokeh"]).render())
    static = resources.files("pyro_vae.report") / "static"
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            sections=sections,
            css=Markup((static / "page.css").read_text(encoding="utf-8")),
            script=Markup((static / "explorer.js").read_text(encoding="utf-8")),
            explorers=any(isinstance(part, Explore) for part in parts),
            examples=Markup(examples),
            bokeh=bokeh,
            charts=script,
            footer=f"{footer} pyro_vae {__version__}".strip(),
        )
    )


def _templates() -> Environment:
    """The templates; they escape each text, wherever it comes from."""
    loader = PackageLoader("pyro_vae.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
