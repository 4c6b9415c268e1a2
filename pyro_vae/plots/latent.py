"""Latent points: the dimensions that vary most, and a picture of two of them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyro_vae.plots.axes import MARKERS, axes_or_new, letters, marks, thickness
from pyro_vae.utils.checks import check_count, check_tensor, check_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["by_variance", "latent", "variance_text"]

# Ten colours for ten classes: Petroff (2021), arXiv 2107.02270.
_CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_ORDINALS = {1: "1st", 2: "2nd"}
_ROWS, _COLUMNS = 15, 3  # of the legend
_ANGLES = 16  # directions in which a label is moved, the first one upwards


def latent(
    z: Tensor, labels: Tensor, dims: tuple[int, int] | None = None, ax: "Axes | None" = None
) -> "Axes":
    r"""Latent points in two of their dimensions, coloured by class label.

    The label of a class stands at the median of its points. Where it would cover another one, it
    stands beside, with a line to its place. The labels for which the axes have no room are in the
    legend alone.

    Arguments:
        z: Latent points, shape ``(N, z_dim)``.
        labels: Class labels, shape ``(N,)``.
        dims: The two dimensions. None takes the two most active ones, whose points have the
            greatest variance, :math:`\mathrm{Var}_x(E_{q(z|x)}[z_u])`, as
            :func:`~pyro_vae.evaluation.active_units` measures; the axes say so.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape or a dimension is none, or the variances are not finite, such as those
            of one point.

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
    count = z.shape[1]
    if dims is None and count == 2:
        dims = 0, 1
    if dims is None:
        if count < 2:
            raise ValueError(f"z: got {count} dimension, expected two or more")
        # The one with the lower number is drawn to the right, whichever varies more.
        first, second = sorted(by_variance(z)[:2])
    else:
        _check_dims(dims, count)
        first, second = dims
    shown = z[:, [first, second]].detach().cpu()
    classes = {str(label): shown[(labels == label).cpu()] for label in labels.unique().tolist()}
    ax = axes_or_new(ax, (6.0, 5.2))
    for place, (label, points) in enumerate(classes.items()):
        ax.scatter(
            points[:, 0].numpy(),
            points[:, 1].numpy(),
            s=marks(2 / 3) ** 2,
            alpha=0.85,
            linewidths=thickness(0.2),
            edgecolors="white",
            color=_CLASS_COLOURS[place % len(_CLASS_COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            label=label,
        )
    names = _named(z, (first, second), ranked=dims is None)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_aspect("equal", adjustable="datalim")
    columns = -(-len(classes) // _ROWS)
    legend = ax.legend(
        title="label",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        ncols=columns,
        markerscale=2,
    )
    legend.set_in_layout(columns <= _COLUMNS)  # one that is wider would leave no room for points
    _write_labels(ax, {label: points.median(0).values for label, points in classes.items()})
    return ax


def by_variance(z: Tensor) -> list[int]:
    """The dimensions of latent points, from the most active to the least.

    Arguments:
        z: Latent points, shape ``(N, z_dim)``.

    Raises:
        ValueError: A variance is not finite, since there is one point, or one with NaN.
    """
    if len(z) < 2:
        raise ValueError(
            f"z: got {len(z)} points of shape {tuple(z.shape)}, expected two or more for the "
            "variance of each dimension"
        )
    variance = _variance(z)
    if not bool(variance.isfinite().all()):
        raise ValueError(
            f"z: got points whose variance is {variance[~variance.isfinite()][0].item()}, "
            "expected finite points"
        )
    return [int(dim) for dim in variance.sort(descending=True, stable=True).indices]


def _variance(z: Tensor) -> Tensor:
    return z.detach().double().var(0).cpu()


def variance_text(z: Tensor, dim: int) -> str:
    """The variance of latent points in a dimension, in words of an axis."""
    return f"{_variance(z[:, [dim]]).item():.2f}"


def _named(z: Tensor, dims: tuple[int, int], *, ranked: bool) -> list[str]:
    """The labels of the axes: the dimension, its variance, and its rank if that chose it."""
    order = by_variance(z) if ranked else []
    names = []
    for dim in dims:
        words = []
        if len(z) > 1:
            words.append(f"variance {variance_text(z, dim)}")
        if ranked:
            words.append(f"{_ORDINALS[order.index(dim) + 1]} of {z.shape[1]}")
        names.append(f"$z_{{{dim + 1}}}$" + (f" ({', '.join(words)})" if words else ""))
    return names


def _check_dims(dims: Sequence[int], count: int) -> None:
    """Raises TypeError or ValueError unless `dims` are two dimensions of `count`."""
    check_values("dims", dims)
    for dim in dims:
        check_count("dims", dim, 0)
    if len(dims) != 2 or max(dims) >= count:
        raise ValueError(f"dims: got {dims!r}, expected two of the {count} dimensions, from 0")


def _write_labels(ax: "Axes", places: dict[str, Tensor]) -> None:
    """Writes each label at its place, or as near to it as none covers another.

    They are placed one after the other, in their order, when the layout of the figure is known.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    texts = {label: _text(ax, label, place) for label, place in places.items()}
    figure.draw_without_rendering()
    inside = np.array(ax.get_window_extent().extents)
    taken = np.zeros((0, 4))
    for label, text in texts.items():
        patch = text.get_bbox_patch()
        assert patch is not None
        box = np.array(patch.get_window_extent().extents)
        text.remove()
        offset = _free(box, inside, taken)
        if offset is None:
            continue
        taken = np.vstack((taken, box + np.tile(offset, 2)))
        _text(ax, label, places[label], offset * 72 / figure.dpi)


def _text(
    ax: "Axes", label: str, place: Tensor, offset: Sequence[float] | np.ndarray = (0, 0)
) -> "Text":
    """A label at a point, moved by an offset in points of type, with a line to the point."""
    moved = any(offset)
    line = {"arrowstyle": "-", "lw": thickness(0.6), "color": "0.3", "shrinkA": 0, "shrinkB": 0}
    text = ax.annotate(
        label,
        (float(place[0]), float(place[1])),
        (float(offset[0]), float(offset[1])),
        textcoords="offset points",
        weight="bold",
        size=letters(1.2),
        ha="center",
        va="center",
        arrowprops=line if moved else None,
    )
    text.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0})
    return text


def _free(box: np.ndarray, inside: np.ndarray, taken: np.ndarray) -> np.ndarray | None:
    """The shortest offset by which a box lies within the axes and covers no other; None if none.

    Arguments:
        box: The left, lower, right and upper end of the box, in pixels.
        inside: Those of the axes.
        taken: Those of the boxes that are there, shape ``(boxes, 4)``.
    """
    step = (box[3] - box[1]) / 2
    radii = np.arange(1, math.ceil(math.hypot(*(inside[2:] - inside[:2])) / step) + 1) * step
    angles = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    rays = np.stack((np.sin(angles), np.cos(angles)), -1)
    offsets = np.concatenate((np.zeros((1, 2)), (radii[:, None, None] * rays).reshape(-1, 2)))
    low, high = box[:2] + offsets, box[2:] + offsets
    free = (low >= inside[:2]).all(-1) & (high <= inside[2:]).all(-1)
    covers = (low[:, None] < taken[:, 2:] + 1) & (high[:, None] > taken[:, :2] - 1)
    free &= ~covers.all(-1).any(-1)
    return offsets[free.argmax()] if free.any() else None
