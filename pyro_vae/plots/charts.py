"""Charts: bounds, k-hat, ranks, and numbers of several runs."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.plots.axes import COLOURS, LINES, MARKERS, axes_or_new, marks, thickness
from pyro_vae.utils.checks import (
    check_count,
    check_examples,
    check_mapping,
    check_number,
    check_tensor,
    check_text,
    check_values,
    kind,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bounds", "dots", "khat", "ranks"]


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
        ms=marks(2 / 3),
        capsize=2,
        label=label,
    )
    ax.set(xlabel="samples $k$", ylabel="mean of $L_k$ in nats per example")
    ax.set_xscale("log", base=2)
    ax.grid(alpha=0.3)
    if label:
        ax.legend(frameon=False)
    return ax


def dots(
    runs: Mapping[str, Mapping[str, Sequence[float]]], xlabel: str, ax: "Axes | None" = None
) -> "Axes":
    """Numbers of several runs: a small mark for each, an open one for their mean with its error.

    The title of the legend says so, where there are several runs. Numbers that are not finite have
    no mark.

    Arguments:
        runs: By the name of a row, and within it by that of a series, one number for each run.
        xlabel: What the numbers are.
        ax: Axes to draw on; None makes a figure.

    Example:
        >>> elbo = {"ELBO": [-86.8, -86.6], "log-likelihood": [-84.9, -84.7]}
        >>> iwae = {"ELBO": [-99.1, -98.7], "log-likelihood": [-84.2, -84.3]}
        >>> ax = plots.dots({"trace_elbo": elbo, "iwae:8": iwae}, "nats per example")
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['trace_elbo', 'iwae:8']
    """
    from matplotlib.ticker import MaxNLocator

    _check_runs(runs)
    check_text("xlabel", xlabel)
    names = list(dict.fromkeys(series for row in runs.values() for series in row))
    ax = axes_or_new(ax, (6.0, 1.6 + 0.6 * len(runs)))
    most = 0
    for place, series in enumerate(names):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        aside = 0.4 * ((place + 0.5) / len(names) - 0.5)  # the first series above the second
        means, heights, errors = [], [], []
        for row, given in enumerate(runs.values()):
            values = torch.tensor([float(plain(v)) for v in given.get(series, ())])
            if not len(values):
                continue
            most = max(most, len(values))
            heights.append(row + aside)
            means.append(values.mean().item())
            errors.append(values.std().item() / len(values) ** 0.5 if len(values) > 1 else 0.0)
            if len(values) > 1:
                y = [row + aside] * len(values)
                size = marks(0.5) ** 2
                ax.scatter(values, y, size, color=colour, marker=marker, linewidths=0)
        ax.errorbar(
            means,
            heights,
            xerr=errors,
            fmt=marker,
            color=colour,
            markerfacecolor="none",
            markersize=marks(1.3),
            capsize=marks(0.5),
            label=series,
        )
    ax.xaxis.set_major_locator(MaxNLocator(5))  # numbers of many digits must not touch
    ax.set_yticks(range(len(runs)), list(runs))
    ax.set_ylim(len(runs) - 0.5, -0.5)
    ax.set(xlabel=xlabel)
    ax.grid(axis="x", alpha=0.3)
    ax.legend(
        title=f"open: mean of {most} runs ± std. error; small: each run" if most > 1 else None,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
    )
    return ax


def _check_runs(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Raises TypeError or ValueError unless there are numbers in each series of each row."""
    check_mapping("runs", runs, "rows to series of numbers")
    for row, given in runs.items():
        check_mapping(f"runs[{row!r}]", given, "series to numbers")
        for series, values in given.items():
            check_values(f"runs[{row!r}][{series!r}]", values)
            for value in values:
                if not isinstance(plain(value), Real) or isinstance(value, bool):
                    raise TypeError(
                        f"runs[{row!r}][{series!r}]: got {kind(value)}, expected numbers"
                    )


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
        label = f"threshold {threshold:.2f}, {above} above"
        ax.axvline(threshold, color=COLOURS[1], ls="--", label=label)
        ax.legend(frameon=False)
    return ax


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
    ax.axhline(0.0, color="0.6", linewidth=thickness(0.5))
    for index, (own, name) in enumerate(zip(ranks, names, strict=True)):
        shares = own.cpu().bincount(minlength=num_samples + 1).cumsum(0) / count
        coloured = index < len(COLOURS)
        ax.plot(
            places.numpy(),
            (shares - places).numpy(),
            color=COLOURS[index] if coloured else "0.5",
            linestyle=LINES[index % len(LINES)],
            linewidth=thickness(0.8 if coloured else 0.4),
            label=name if coloured else None,
        )
    ax.set(
        xlabel="rank of the simulated value, as a share",
        ylabel="share, less the uniform one",
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
