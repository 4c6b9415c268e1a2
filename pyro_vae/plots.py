"""Figures from plain arrays, one function each; all take `ax` and return it.

Images are drawn from 0 (white) to 1 (black), and values beyond are shown as these. matplotlib is
imported where a figure is drawn, so that importing the package does not cost it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, distinct for colour-blind eyes; markers are for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
# Ten for ten classes: Petroff (2021), arXiv 2107.02270.
_CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKERS = "osD^vP*X<>"
_LINES = ("-", "--", ":", "-.")
_LABELS = {
    "cost": "cost (−ELBO), training",
    "reconstruction": "reconstruction, training",
    "kl": "KL, training",
    "test_cost": "−ELBO, test",
}


def images(x: Tensor, columns: int = 10, title: str = "", ax: "Axes | None" = None) -> "Axes":
    """Images of shape ``(N, *x_shape)`` as a grid, row by row."""
    rows = -(-len(x) // columns)
    flat = _as_images(x)
    height, width = flat.shape[1:3]
    blank = torch.zeros(rows * columns - len(x), *flat.shape[1:])
    tiles = torch.cat((flat, blank)).reshape(rows, columns, height, width, -1)
    sheet = tiles.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)
    ax = _axes(ax, (0.6 * columns, 0.6 * rows * height / width + (0.4 if title else 0)))
    _show(ax, sheet)
    ax.set(xticks=[], yticks=[], title=title)
    return ax


def reconstructions(
    x: Tensor, reconstructed: Tensor, columns: int = 10, ax: "Axes | None" = None
) -> "Axes":
    """The first `columns` images above what the VAE makes of them."""
    if x.shape != reconstructed.shape:
        raise ValueError(
            f"reconstructed: got shape {tuple(reconstructed.shape)}, expected that of x, "
            f"{tuple(x.shape)}"
        )
    columns = min(columns, len(x))
    return side_by_side({"real": x[:columns], "reconstructed": reconstructed[:columns]}, ax)


def side_by_side(rows: Mapping[str, Tensor], ax: "Axes | None" = None) -> "Axes":
    """A row of images ``(columns, *x_shape)`` for each name, all of the same number."""
    shapes = {tuple(x.shape) for x in rows.values()}
    if len(shapes) != 1 or not len(next(iter(rows.values()))):
        raise ValueError(
            f"rows: got images of shapes {sorted(shapes)}, expected one shape (columns, *x_shape)"
        )
    tensors = list(rows.values())
    ax = images(torch.cat(tensors), len(tensors[0]), ax=ax)
    height = _as_images(tensors[0][:1]).shape[1]
    places = [(i + 0.5) * height for i in range(len(rows))]
    ax.set(yticks=places, yticklabels=list(rows))
    ax.tick_params(axis="y", length=0)
    return ax


def generated(x: Tensor, columns: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Images that the model made from draws of its prior."""
    return images(x, columns, "generated", ax)


def manifold(
    decode: Callable[[Tensor], Tensor],
    *,
    size: int = 15,
    limit: float = 1.5,
    quantile: Callable[[Tensor], Tensor] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Decoded images on a grid of two latent dimensions, the lecture's 15 x 15 over [-1.5, 1.5]^2.

    Arguments:
        decode: Maps z of shape ``(size ** 2, 2)`` to images, ``vae.decode`` for instance.
        size: Points along each axis.
        limit: The grid reaches from -`limit` to `limit`.
        quantile: The prior's inverse distribution function, elementwise on ``(size ** 2, 2)``
            (``vae.prior().base_dist.icdf``). If given, the grid is even in the prior's
            probability instead, and `limit` has no part in it.
    """
    if quantile is None:
        line = torch.linspace(-limit, limit, size)
        labels = [f"{value + 0.0:.1f}" for value in line.round(decimals=6).tolist()]
        axes = ("$z_1$", "$z_2$")
    else:
        line = (torch.arange(size) + 0.5) / size
        labels = [f"{value:.2f}" for value in line.tolist()]
        axes = ("$P(z_1)$, prior probability below", "$P(z_2)$, prior probability below")
    # The first row of the sheet is its top, the largest second coordinate.
    points = torch.cartesian_prod(line.flip(0), line).flip(1)
    x = decode(points if quantile is None else quantile(points))
    height, width = _as_images(x[:1]).shape[1:3]
    ax = _axes(ax, (6.5, 6.5 * height / width))
    images(x, size, ax=ax)
    ticks = sorted({0, (size - 1) // 2, size - 1})
    ax.set(
        xticks=[(i + 0.5) * width for i in ticks],
        xticklabels=[labels[i] for i in ticks],
        yticks=[(size - i - 0.5) * height for i in ticks],
        yticklabels=[labels[i] for i in ticks],
        xlabel=axes[0],
        ylabel=axes[1],
    )
    return ax


def latent(
    z: Tensor, labels: Tensor, dims: tuple[int, int] = (0, 1), ax: "Axes | None" = None
) -> "Axes":
    """Latent points of shape ``(N, z_dim)`` in two of their dimensions, by class label."""
    ax = _axes(ax, (6.0, 5.2))
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
            marker=_MARKERS[place % len(_MARKERS)],
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


def training_curves(history: Mapping[str, Sequence[float]], ax: "Axes | None" = None) -> "Axes":
    """Cost, reconstruction, KL and test -ELBO against the epoch; and what they add up to."""
    ax = _axes(ax, (6.0, 4.0))
    names = [name for name in _LABELS if name in history]
    for place, name in enumerate(names):
        ax.plot(
            history["epoch"],
            history[name],
            _LINES[place % len(_LINES)],
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
    """For each name the mean of its curves, one a seed, and the range from least to greatest.

    `epochs` are the places of their values, of whatever `xlabel` says that they are.
    `log` makes the vertical axis logarithmic.
    """
    ax = _axes(ax, (6.0, 4.0))
    for place, (name, runs) in enumerate(curves.items()):
        values = torch.tensor(runs, dtype=torch.float64).numpy()
        colour = COLOURS[place % len(COLOURS)]
        line = _LINES[place % len(_LINES)]
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
    """For each name a line through its own places and values, marked."""
    ax = _axes(ax, (6.0, 4.0))
    for place, (name, (x, y)) in enumerate(curves.items()):
        colour, marker = COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)]
        ax.plot(x, y, _LINES[place % len(_LINES)], color=colour, marker=marker, ms=4, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def pair() -> "tuple[Axes, Axes]":
    """Axes side by side in a new figure."""
    from matplotlib import pyplot as plt

    first, second = plt.subplots(1, 2, figsize=(10.4, 4.0), layout="constrained")[1]
    return first, second


def bounds(
    sizes: Sequence[int],
    values: Sequence[float],
    errors: Sequence[float],
    label: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """A bound against the number of samples, with bars of two standard errors."""
    ax = _axes(ax, (6.0, 4.0))
    bars = 2 * torch.tensor(errors, dtype=torch.float64).nan_to_num().numpy()
    place = len(ax.containers)
    ax.errorbar(
        sizes,
        values,
        bars,
        color=COLOURS[place % len(COLOURS)],
        marker=_MARKERS[place % len(_MARKERS)],
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
    """A histogram of k-hat, and how many examples are above the threshold, which may be NaN."""
    ax = _axes(ax, (6.0, 4.0))
    finite = values[torch.isfinite(values)].detach().cpu().numpy()
    ax.hist(finite, bins=30, color=COLOURS[0])
    ax.set(xlabel="k-hat", ylabel=f"examples, of {len(values)}")
    if not math.isnan(threshold):
        above = int((~(values <= threshold)).sum())  # those that cannot be told, too
        ax.axvline(threshold, color=COLOURS[1], ls="--", label=f"{threshold:.2f}: {above} above")
        ax.legend(frameon=False)
    return ax


def save(ax: "Axes", path: str | Path) -> None:
    """Writes the figure that holds `ax` at 150 dots an inch, and closes it."""
    from matplotlib import pyplot as plt

    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


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


def _axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def _as_images(x: Tensor) -> Tensor:
    """Images on the CPU as ``(N, height, width, channels)``, uint8 levels scaled to [0, 1]."""
    x = x.detach().cpu()
    x = x / 255 if x.dtype == torch.uint8 else x.float()
    if x.dim() == 2:
        side = round(x.shape[1] ** 0.5)
        if side * side != x.shape[1]:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, expected (N, *channels, height, width), or "
                "(N, D) with D a square"
            )
        x = x.reshape(-1, side, side)
    x = x.reshape(len(x), -1, *x.shape[-2:]).movedim(1, -1)
    if x.shape[-1] not in (1, 3):
        raise ValueError(f"x: got {x.shape[-1]} channels, expected 1 or 3")
    return x


def _show(ax: "Axes", sheet: Tensor) -> None:
    height, width, channels = sheet.shape
    keywords: dict[str, Any] = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    if channels == 1:
        ax.imshow(sheet[..., 0].clamp(0, 1).numpy(), cmap="gray_r", vmin=0, vmax=1, **keywords)
    else:
        ax.imshow(sheet.clamp(0, 1).numpy(), **keywords)
