"""The style of figures for papers: fonts, lines, and the width of a template's columns."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

from pyro_vae.utils.checks import check_count, check_positive, check_text, plain

__all__ = ["TEMPLATES", "Style", "applied", "column_width", "style"]

Style = Literal["paper"]
"""The styles that there are."""

TEMPLATES: dict[str, tuple[float, ...]] = {
    "neurips": (5.5,),
    "iclr": (5.5,),
    "jmlr": (6.0,),
    "icml": (3.25, 6.75),
    "aistats": (3.25, 6.75),
    "ieee": (3.487, 7.14),
}
"""The width of one column of a template in inches, and of two where a page has two."""

_HEIGHT = 0.62  # of a figure that another function makes, as a share of its width
_PAPER: dict[str, Any] = {
    "font.family": ["STIXGeneral", "DejaVu Serif"],  # Both come with matplotlib.
    "mathtext.fontset": "stix",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "figure.titlesize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.title_fontsize": 7.0,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.0,
    "patch.linewidth": 0.6,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "figure.constrained_layout.use": True,
    "savefig.bbox": None,  # "tight" would change the width
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "path",
}

_width: ContextVar[float | None] = ContextVar("width of figures", default=None)


def column_width() -> float | None:
    """The width in inches that each new figure has; None outside of :func:`style`.

    Example:
        >>> from pyro_vae.plots.style import column_width
        >>> with plots.style("paper", width="icml"):
        ...     column_width()
        3.25
    """
    return _width.get()


def style(
    name: Style = "paper", *, width: str | float = "neurips", columns: int = 1
) -> AbstractContextManager[None]:
    """A context in which each figure fits a paper: its width, fonts and lines.

    Each figure that is made in it is as wide as a column of the paper, in inches, so that a paper
    includes it unscaled. :func:`plots.save` keeps the style of such a figure, outside of the
    context too; matplotlib's own ``savefig`` belongs inside. Text has 7 and 8 points, in a font
    like Times, formulas too. Fonts are embedded as TrueType (type 42) in PDF and PostScript, and
    drawn as outlines in SVG. Figures that other code makes with matplotlib in this context have
    the same. On leaving it, matplotlib's settings are as before.

    Arguments:
        name: ``"paper"``.
        width: The template, one of ``"neurips"``, ``"iclr"``, ``"jmlr"``, ``"icml"``,
            ``"aistats"`` and ``"ieee"``, or a width in inches.
        columns: How many columns of the page a figure spans: 1, or 2 in a template that has two.

    Returns:
        The context manager.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The style or the template is unknown, the width is not positive, or the
            template has fewer columns.

    Example:
        >>> with plots.style("paper", width="icml", columns=2):
        ...     ax = plots.lines({"IWAE": ([1, 5], [-86.8, -85.5])}, "k", "nats")
        >>> float(ax.figure.get_figwidth())
        6.75
    """
    check_text("name", name)
    if name not in get_args(Style):
        raise ValueError(f"name: got {name!r}, expected {', '.join(map(repr, get_args(Style)))}")
    return applied(_inches(width, columns))


def _inches(width: str | float, columns: int) -> float:
    """The width of a figure in inches; raises TypeError or ValueError."""
    check_count("columns", columns)
    if isinstance(width, str):
        if width not in TEMPLATES:
            raise ValueError(
                f"width: got {width!r}, expected one of {', '.join(TEMPLATES)}, or a number of "
                "inches"
            )
        widths, of = TEMPLATES[width], f"a page of {width} has"
    else:
        check_positive("width", width)
        widths, of = (float(plain(width)),), "a width in inches is that of"
    if columns > len(widths):
        raise ValueError(
            f"columns: got {columns}, expected at most {len(widths)}: {of} {len(widths)}"
        )
    return widths[columns - 1]


@contextmanager
def applied(width: float) -> Iterator[None]:
    """The context of a figure of a width in inches."""
    from matplotlib import rc_context

    token = _width.set(width)
    try:
        with rc_context({**_PAPER, "figure.figsize": (width, _HEIGHT * width)}):
            yield
    finally:
        _width.reset(token)
