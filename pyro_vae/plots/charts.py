"""Charts: training curves, bounds, k-hat, and latent points."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.plots.axes import COLOURS, LINES, MARKERS, axes_or_new
from pyro_vae.utils.checks import (
    check_count,
    check_examples,
    check_flag,
    check_mapping,
    check_number,
    check_tensor,
    check_text,
    check_values,
    is_sequence,
    kind,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bands", "bounds", "khat", "latent", "lines", "ranks", "training_curves"]

# Ten colours for ten classes: Petroff (2021), arXiv 2107.02270.
_CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_LABELS = {
    "cost": "cost (−ELBO), training",
    "reconstruction": "reconstruction, training",
    "kl": "KL, training",
    "validation_cost": "−ELBO, validation",
    "test_cost": "−ELBO, test",
}


def latent(
    z: Tensor, labels: Tensor, dims: tuple[int, int] = (0, 1), ax: "Axes | None" = None
) -> "Axes":
    """Latent points in two of their dimensions, coloured by class label.

    Arguments:
        z: Latent points, shape ``(N, z_dim)``.
        labels: Class labels, shape ``(N,)``.
        dims: The two dimensions.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> data = datasets.load("digits")
        >>> vae = presets.build("bernoulli-mlp", shape=data.shape)
        >>> ax = plots.latent(vae.embed(data.test[:100] / 255), data.test_labels[:100])
        >>> len(ax.collections)  # one for each digit
        10
    """
    check_tensor("z", z, "N", "z_dim")
    check_tensor("labels", labels, "N")
    if len(labels) != len(z):
        raise ValueError(f"labels: got {len(labels)}, expected one for each of {len(z)} points")
    _check_dims(dims, z.shape[1])
    ax = axes_or_new(ax, (6.0, 5.2))
    for place, label in enumerate(labels.unique().tolist()):
        points = z[(labels == label).to(z.device)][:, list(dims)].detach().cpu().numpy()
        ax.scatter(
            points[:, 0],
            points[:, 1],
            s=16,
            alpha=0.85,
            linewidths=0.3,
            edgecolors="white",
            color=_CLASS_COLOURS[place % len(_CLASS_COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            label=str(label),
        )
    for label in labels.unique().tolist():
        own = z[(labels == label).to(z.device)][:, list(dims)]
        x, y = own.median(0).values.tolist()
        ax.text(x, y, str(label), weight="bold", size=13, ha="center", va="center").set_bbox(
            {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0}
        )
    ax.set(xlabel=f"$z_{{{dims[0] + 1}}}$ of the latent point", ylabel=f"$z_{{{dims[1] + 1}}}$")
    ax.set_aspect("equal", adjustable="datalim")
    ax.legend(title="label", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return ax


def _check_dims(dims: Sequence[int], count: int) -> None:
    """Raises TypeError or ValueError unless `dims` are two dimensions of `count`."""
    check_values("dims", dims)
    for dim in dims:
        check_count("dims", dim, 0)
    if len(dims) != 2 or max(dims) >= count:
        raise ValueError(f"dims: got {dims!r}, expected two of the {count} dimensions, from 0")


def training_curves(history: Mapping[str, Sequence[float]], ax: "Axes | None" = None) -> "Axes":
    """Cost, reconstruction, KL and the -ELBO of test data by epoch, in nats per example.

    Arguments:
        history: Columns of numbers by name, as ``fit`` returns them; other columns are left out.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> history = {"epoch": [1, 2, 3], "cost": [206.0, 160.0, 145.0]}
        >>> ax = plots.training_curves(history)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('epoch', 'nats per example')
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
    for place, name in enumerate(names):
        ax.plot(
            history["epoch"],
            history[name],
            LINES[place % len(LINES)],
            color=COLOURS[place],
            label=_LABELS[name],
        )
    _finish_curves(ax, history["epoch"])
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
    _finish_curves(ax, epochs, ylabel, xlabel)
    if log:
        ax.set_yscale("log")
    return ax


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    ax: "Axes | None" = None,
) -> "Axes":
    """Lines with markers, each with its own horizontal places.

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
    _check_curves(curves)
    check_text("xlabel", xlabel)
    check_text("ylabel", ylabel)
    ax = axes_or_new(ax, (6.0, 4.0))
    for place, (name, (x, y)) in enumerate(curves.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        ax.plot(x, y, LINES[place % len(LINES)], color=colour, marker=marker, ms=4, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
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


def bounds(
    sizes: Sequence[int],
    values: Sequence[float],
    errors: Sequence[float],
    label: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """A bound on log p(x) by the number of samples, with bars of two standard errors.

    Arguments:
        sizes: Numbers of samples k.
        values: The bound for each, in nats per example.
        errors: Its standard error; NaN draws no bar.
        label: Name in the legend.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> ax = plots.bounds([1, 10, 100], [-90.0, -87.0, -86.0], [0.1, 0.1, 0.1])
        >>> ax.get_xlabel(), ax.get_xscale()
        ('samples $k$', 'log')
    """
    for argument, given in (("sizes", sizes), ("values", values), ("errors", errors)):
        check_values(argument, given)
        if len(given) != len(sizes):
            raise ValueError(f"{argument}: got {len(given)}, expected {len(sizes)}, as sizes")
    check_text("label", label)
    ax = axes_or_new(ax, (6.0, 4.0))
    bars = 2 * torch.tensor(errors, dtype=torch.float64).nan_to_num().numpy()
    place = len(ax.containers)
    ax.errorbar(
        sizes,
        values,
        bars,
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)],
        ms=4,
        capsize=2,
        label=label,
    )
    ax.set(xlabel="samples $k$", ylabel="mean of $L_k$ in nats per example")
    ax.set_xscale("log", base=2)
    ax.grid(alpha=0.3)
    if label:
        ax.legend(frameon=False)
    return ax


def khat(values: Tensor, threshold: float, ax: "Axes | None" = None) -> "Axes":
    """A histogram of k-hat, with the number of examples above a threshold.

    Arguments:
        values: The k-hat of each example, shape ``(N,)``; NaN counts as above.
        threshold: The threshold; NaN draws none.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> ax = plots.khat(torch.rand(100), threshold=0.7)
        >>> ax.get_ylabel()
        'examples, of 100'
    """
    check_tensor("values", values, "N")
    check_examples("values", values)
    check_number("threshold", threshold, nan=True)
    ax = axes_or_new(ax, (6.0, 4.0))
    finite = values[torch.isfinite(values)].detach().cpu().numpy()
    ax.hist(finite, bins=30, color=COLOURS[0])
    ax.set(xlabel="k-hat", ylabel=f"examples, of {len(values)}")
    if not math.isnan(threshold):
        above = int((~(values <= threshold)).sum())  # NaN too
        ax.axvline(threshold, color=COLOURS[1], ls="--", label=f"{threshold:.2f}: {above} above")
        ax.legend(frameon=False)
    return ax


def _finish_curves(
    ax: "Axes",
    epochs: Sequence[float],
    ylabel: str = "nats per example",
    xlabel: str = "epoch",
) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(epochs) == 1:  # a line of one point is invisible
        for line in ax.lines:
            line.set_marker("o")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)


def ranks(
    ranks: Tensor, num_samples: int, names: Sequence[str], ax: "Axes | None" = None
) -> "Axes":
    r"""The distribution of ranks against the uniform one, for simulation-based calibration.

    Each quantity is a line: the share of ranks up to r, less that of uniform ranks. The grey band
    has all lines of calibrated draws with a chance of 95 %. Draws that are too narrow make a wave
    that rises first, draws that are too wide one that falls first. Draws that are too low make a
    valley, and draws that are too high a hill.

    Source: Säilynoja, Bürkner and Vehtari (2022), Statistics and Computing 32, section 2, for the
    figure; Massart (1990), Annals of Probability 18, for the band.

    Arguments:
        ranks: Ranks from 0 to `num_samples`, shape ``(quantities, N)``.
        num_samples: The number of draws.
        names: The names of the quantities. The first eight have colours.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> ax = plots.ranks(torch.randint(100, (2, 500)), 99, ["z[0]", "z[1]"])
        >>> len(ax.lines)
        3
    """
    check_count("num_samples", num_samples)
    _check_ranks(ranks, num_samples)
    check_values("names", names)
    for name in names:
        check_text("names", name)
    quantities, count = ranks.shape
    if len(names) != quantities:
        raise ValueError(
            f"names: got {len(names)}, expected one for each of {quantities} rows of ranks"
        )
    ax = axes_or_new(ax, (6.0, 4.0))
    places = (torch.arange(num_samples + 1) + 1) / (num_samples + 1)
    band = math.sqrt(math.log(2 * quantities / 0.05) / (2 * count))
    ax.axhspan(-band, band, color="0.9", label="95 % band")
    ax.axhline(0.0, color="0.6", linewidth=0.8)
    for index, (own, name) in enumerate(zip(ranks, names, strict=True)):
        shares = own.cpu().bincount(minlength=num_samples + 1).cumsum(0) / count
        coloured = index < len(COLOURS)
        ax.plot(
            places.numpy(),
            (shares - places).numpy(),
            color=COLOURS[index] if coloured else "0.5",
            linestyle=LINES[index % len(LINES)],
            linewidth=1.2 if coloured else 0.6,
            label=name if coloured else None,
        )
    ax.set(
        xlabel="rank of the simulated value, as a share",
        ylabel="share of data sets, less the uniform one",
        xlim=(0.0, 1.0),
    )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _check_ranks(ranks: Tensor, num_samples: int) -> None:
    """Raises TypeError or ValueError unless these are ranks among a number of draws."""
    check_tensor("ranks", ranks, "quantities", "N")
    if ranks.is_floating_point() or ranks.is_complex() or ranks.dtype == torch.bool:
        raise TypeError(f"ranks: got {ranks.dtype}, expected integers")
    if not ranks.numel():
        raise ValueError(f"ranks: got none (shape {tuple(ranks.shape)}), expected at least one")
    off = ranks[(ranks < 0) | (ranks > num_samples)]
    if off.numel():
        raise ValueError(
            f"ranks: got {off[0].item()} at {off.numel()} of {ranks.numel()} places, expected "
            f"ranks from 0 to {num_samples}"
        )
