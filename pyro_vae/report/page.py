"""Pages: sections as one HTML file that needs no network."""

from collections.abc import Sequence
from importlib import resources

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pyro_vae.report.parts import Chart, Explore, Points, Section, as_json
from pyro_vae.version import __version__

__all__ = ["rendered"]


def rendered(title: str, sections: Sequence[Section], examples: str = "") -> str:
    """The page as a text.

    Arguments:
        title: Its title.
        sections: Its sections.
        examples: The sheet of examples, the address of a picture, for the tooltips of charts.
    """
    parts = [part for section in sections for part in section.parts]
    charts = {part.name: part.drawn.figure for part in parts if isinstance(part, Chart)}
    scripts = [
        _static(name)
        for name, kind in (("explorer.js", Explore), ("points.js", Points))
        if any(isinstance(part, kind) for part in parts)
    ]
    bokeh, drawing = Markup(), Markup()
    places: dict[str, str] = {}
    if charts:
        script, places = components(charts)
        bokeh = Markup(Resources(mode="inline", components=["bokeh"]).render())
        drawing = Markup(script)
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            sections=sections,
            css=_static("page.css"),
            examples=examples,
            bokeh=bokeh,
            drawing=drawing,
            places={name: Markup(place) for name, place in places.items()},
            scripts=scripts,
            version=__version__,
        )
    )


def _static(name: str) -> Markup:
    path = resources.files("pyro_vae.report") / "static" / name
    return Markup(path.read_text(encoding="utf-8"))


def _templates() -> Environment:
    """The templates; they escape each text, wherever it comes from."""
    loader = PackageLoader("pyro_vae.report")
    found = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    found.filters["as_json"] = as_json
    return found
