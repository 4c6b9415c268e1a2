"""Axes to draw on, their colours, and writing a figure to a file."""

from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae.utils.checks import check_path, kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "LINES", "MARKERS", "axes_or_new", "check_axes", "panels", "save"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Eight colours that colour-blind readers can tell apart, by Okabe and Ito."""
MARKERS = "osD^vP*X<>"
"""Markers, which tell curves apart in black and white."""
LINES = ("-", "--", ":", "-.")
"""Line styles, which do the same."""


def axes_or_new(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    """`ax`, or the axes of a new figure of a width and height in inches.

    Example:
        >>> from pyro_vae.plots.axes import axes_or_new
        >>> axes_or_new(None, (6.0, 4.0)).figure.get_size_inches().tolist()
        [6.0, 4.0]
    """
    check_axes(ax)
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


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
    """Two axes in a new figure, a left and a right one.

    Example:
        >>> left, right = plots.panels()
        >>> ax = plots.images(torch.rand(20, 28, 28), ax=left)
        >>> left.figure is right.figure
        True
    """
    from matplotlib import pyplot as plt

    first, second = plt.subplots(1, 2, figsize=(10.4, 4.0), layout="constrained")[1]
    return first, second


def save(ax: "Axes", path: str | Path) -> None:
    """Writes the figure of `ax` to a file at 150 dots an inch, and closes it.

    Arguments:
        ax: Any axes of the figure.
        path: The file; its suffix gives the format.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "images.png"
        >>> plots.save(plots.images(torch.rand(20, 28, 28)), path)
        >>> path.exists()
        True
    """
    check_axes(ax, none=False)
    check_path("path", path)
    from matplotlib import pyplot as plt

    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
