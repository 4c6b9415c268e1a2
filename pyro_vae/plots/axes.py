"""Axes to draw on, their colours and sizes, and writing a figure to a file."""

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pyro_vae.plots.style import applied, column_width
from pyro_vae.utils.checks import check_path, kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "LINES",
    "MARKERS",
    "axes_or_new",
    "check_axes",
    "letters",
    "marks",
    "panels",
    "save",
    "thickness",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Eight colours that colour-blind readers can tell apart, by Okabe and Ito."""
MARKERS = "osD^vP*X<>"
"""Markers, which tell curves apart in black and white."""
LINES = ("-", "--", ":", "-.")
"""Line styles, which do the same."""

_NARROW = 4.5  # inches, in which two panels have no room beside each other
_widths: "WeakKeyDictionary[Figure, float]" = WeakKeyDictionary()
"""The figures that are as wide as a paper's column; cropping them would change it."""


def axes_or_new(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """`ax`, or the axes of a new figure of a width and height in inches.

    In the context of :func:`plots.style` the figure is as wide as the column, in the same
    proportions.

    Example:
        >>> from pyro_vae.plots.axes import axes_or_new
        >>> axes_or_new(None, (6.0, 4.0)).figure.get_size_inches().tolist()
        [6.0, 4.0]
    """
    check_axes(ax)
    if ax is not None:
        return ax
    return _new(1, 1, size)[0]


def _new(rows: int, columns: int, size: tuple[float, float]) -> "list[Axes]":
    """The axes of a new figure, whose size is scaled to the column of a paper."""
    from matplotlib import pyplot as plt

    width = column_width()
    if width is not None:
        size = width, width * size[1] / size[0]
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    if width is not None:
        _widths[figure] = width
    return list(axes.flat)


def check_axes(ax: object, *, none: bool = True) -> None:
    """Raises TypeError unless `ax` are axes of matplotlib, or None where `none` says so.

    Example:
        >>> from pyro_vae.plots.axes import check_axes
        >>> check_axes("left")
        Traceback (most recent call last):
        TypeError: ax: got a str, expected a matplotlib.axes.Axes
    """
    if none and ax is None:
        return
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"ax: got {kind(ax)}, expected a matplotlib.axes.Axes")


def panels() -> "tuple[Axes, Axes]":
    """Two axes in a new figure, a left and a right one; in a narrow column one above the other.

    Example:
        >>> left, right = plots.panels()
        >>> ax = plots.images(torch.rand(20, 28, 28), ax=left)
        >>> left.figure is right.figure
        True
    """
    width = column_width()
    stacked = width is not None and width < _NARROW
    first, second = _new(2, 1, (4.0, 5.2)) if stacked else _new(1, 2, (10.4, 4.0))
    return first, second


def letters(factor: float) -> float:
    """A size of letters in points, as a multiple of the style's."""
    from matplotlib import rcParams

    return factor * float(rcParams["font.size"])


def thickness(factor: float) -> float:
    """A width of lines in points, as a multiple of the style's."""
    from matplotlib import rcParams

    return factor * float(rcParams["lines.linewidth"])


def marks(factor: float) -> float:
    """A diameter of markers in points, as a multiple of the style's."""
    from matplotlib import rcParams

    return factor * float(rcParams["lines.markersize"])


def save(ax: "Axes", path: str | Path) -> None:
    """Writes the figure of `ax` to a file, and closes it.

    The suffix gives the format, such as ``.png``, ``.pdf`` or ``.svg``. A PNG has 150 dots an
    inch, and white margins are cut off. A figure of :func:`style` keeps its width, and has 300
    dots an inch. A PDF has its fonts embedded as TrueType (type 42), as publishers ask for.

    Arguments:
        ax: Any axes of the figure.
        path: The file.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "images.pdf"
        >>> plots.save(plots.images(torch.rand(20, 28, 28)), path)
        >>> path.exists()
        True
    """
    check_axes(ax, none=False)
    check_path("path", path)
    from matplotlib import pyplot as plt
    from matplotlib import rc_context

    figure = ax.get_figure(root=True)
    assert figure is not None
    width = _widths.get(figure, column_width())
    if width is not None:
        with applied(width):  # ticks and fonts are looked up when a figure is drawn
            figure.savefig(path)
    else:
        with rc_context({"pdf.fonttype": 42, "ps.fonttype": 42}):
            figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
