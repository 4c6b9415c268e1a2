"""Curves: those of a training, of several runs with their range, and lines with markers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pyro_vae.plots.axes import COLOURS, LINES, MARKERS, axes_or_new, marks
from pyro_vae.utils.checks import (
    check_flag,
    check_mapping,
    check_text,
    check_values,
    is_sequence,
    kind,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["bands", "lines", "training_curves"]

_LABELS = {
    "cost": "cost (−ELBO), training",
    "reconstruction": "reconstruction, training",
    "kl": "KL, training",
    "validation_cost": "−ELBO, validation",
    "test_cost": "−ELBO, test",
}


def training_curves(history: Mapping[str, Sequence[float]], ax: "Axes | None" = None) -> "Axes":
    """Cost, reconstruction, KL and the -ELBO of test data by epoch, in nats per example.

    The KL has an axis of its own on the right, since it is much smaller than the others.

    Arguments:
        history: Columns of numbers by name, as ``fit`` returns them; other columns are left out.
        ax: Axes to draw on; None makes a figure.

    Returns:
        The axes of the cost. Those of the KL are the last ones of its figure.

    Example:
        >>> history = {"epoch": [1, 2, 3], "cost": [206.0, 160.0, 145.0], "kl": [3.0, 4.0, 5.0]}
        >>> ax = plots.training_curves(history)
        >>> ax.get_xlabel(), ax.get_ylabel(), ax.figure.axes[-1].get_ylabel()
        ('epoch', 'nats per example', 'KL in nats per example')
    """
    check_mapping("history", history, "names to columns")
    if "epoch" not in history:
        raise ValueError('history: got no column "epoch", expected one')
    names = [name for name in _LABELS if name in history]
    if not names:
        raise ValueError(
            f"history: got the columns {', '.join(map(str, history))}, expected one or more of "
            f"{', '.join(_LABELS)}"
        )
    ax = axes_or_new(ax, (6.0, 4.0))
    own = ax.twinx() if "kl" in names and len(names) > 1 else ax
    drawn = []
    for place, name in enumerate(names):
        target, side = (own, " (right)") if name == "kl" and own is not ax else (ax, "")
        drawn += target.plot(
            history["epoch"],
            history[name],
            LINES[place % len(LINES)],
            color=COLOURS[place],
            label=_LABELS[name] + side,
        )
    _finish_curves(ax, history["epoch"], handles=drawn)
    if own is not ax:
        colour = COLOURS[names.index("kl")]
        own.set_ylabel("KL in nats per example", color=colour)
        own.tick_params(axis="y", colors=colour)
    return ax


def bands(
    epochs: Sequence[float],
    curves: Mapping[str, Sequence[Sequence[float]]],
    ylabel: str,
    log: bool = False,
    xlabel: str = "epoch",
    ax: "Axes | None" = None,
) -> "Axes":
    """The mean of several curves, such as one for each seed, in a band from least to greatest.

    The title of the legend says so, where there are several.

    Arguments:
        epochs: Horizontal places of the values.
        curves: By name, curves of ``len(epochs)`` values each.
        ylabel, xlabel: Labels of the axes.
        log: Whether the vertical axis is logarithmic.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> curves = {"Adam": [[206.0, 160.0], [204.0, 161.0]], "SGD": [[300.0, 250.0]]}
        >>> ax = plots.bands([1, 2], curves, ylabel="nats per example")
        >>> len(ax.lines), len(ax.collections)
        (2, 2)
    """
    from matplotlib.ticker import LogFormatter

    check_values("epochs", epochs)
    _check_curves(curves, len(epochs))
    check_text("ylabel", ylabel)
    check_flag("log", log)
    check_text("xlabel", xlabel)
    ax = axes_or_new(ax, (6.0, 4.0))
    for place, (name, runs) in enumerate(curves.items()):
        values = torch.tensor(runs, dtype=torch.float64).numpy()
        colour = COLOURS[place % len(COLOURS)]
        line = LINES[place % len(LINES)]
        ax.plot(epochs, values.mean(0), line, color=colour, label=name)
        ax.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
    _finish_curves(ax, epochs, ylabel, xlabel, title=_meaning(curves))
    if log:
        ax.set_yscale("log")
        for which in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
            which(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.4)))  # 6, not 6 × 10⁰
    return ax


def _meaning(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """What lines and bands are, for the title of a legend; nothing if there are no bands."""
    counts = sorted({len(runs) for runs in curves.values()})
    if counts[-1] == 1:
        return ""
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"mean of {several} runs, band from least to greatest"


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    ax: "Axes | None" = None,
) -> "Axes":
    """Lines with markers, each with its own horizontal places; whole places have whole ticks.

    Arguments:
        curves: By name, the horizontal places and the values.
        xlabel, ylabel: Labels of the axes.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> curves = {"IWAE": ([1, 5, 50], [-86.8, -85.5, -84.8]), "VAE": ([1], [-86.8])}
        >>> ax = plots.lines(curves, xlabel="k", ylabel="nats per example")
        >>> len(ax.lines)
        2
    """
    from matplotlib.ticker import MaxNLocator

    _check_curves(curves)
    check_text("xlabel", xlabel)
    check_text("ylabel", ylabel)
    ax = axes_or_new(ax, (6.0, 4.0))
    for place, (name, (x, y)) in enumerate(curves.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        ax.plot(
            x,
            y,
            LINES[place % len(LINES)],
            color=colour,
            marker=marker,
            label=name,
            ms=marks(2 / 3),
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if all(float(place) % 1 == 0 for x, _ in curves.values() for place in x):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def _check_curves(curves: Mapping[str, Sequence[Sequence[float]]], length: int = 0) -> None:
    """Raises TypeError or ValueError unless each curve is a sequence of sequences.

    Arguments:
        curves: The curves by name.
        length: The number of values in each; 0 for the places and values of a line.
    """
    check_mapping("curves", curves, "names to curves")
    for name, runs in curves.items():
        check_values(f"curves[{name!r}]", runs)
        for run in runs:
            if not is_sequence(run):
                raise TypeError(f"curves[{name!r}]: got {kind(run)}, expected sequences")
            if length and len(run) != length:
                raise ValueError(
                    f"curves[{name!r}]: got a curve of {len(run)} values, expected one for each "
                    f"of {length} epochs"
                )
        if not length and (len(runs) != 2 or len(runs[0]) != len(runs[1])):
            raise ValueError(f"curves[{name!r}]: got {runs!r}, expected places and as many values")


def _finish_curves(
    ax: "Axes",
    epochs: Sequence[float],
    ylabel: str = "nats per example",
    xlabel: str = "epoch",
    title: str = "",
    handles: "Sequence[Line2D] | None" = None,
) -> None:
    """Labels the axes, and puts a legend over them, where it covers no curve.

    Arguments:
        ax: The axes.
        epochs: Horizontal places of the values.
        ylabel, xlabel: Labels of the axes.
        title: Title of the legend.
        handles: The lines, if some of them are on other axes.
    """
    from matplotlib.ticker import MaxNLocator

    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn = ax.get_lines() if handles is None else handles
    if len(epochs) == 1:  # a line of one point is invisible
        for line in drawn:
            line.set_marker("o")
    ax.grid(alpha=0.3)
    ax.legend(
        handles=drawn,
        title=title or None,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
    )
