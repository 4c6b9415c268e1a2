"""Tables: the columns of real rows beside those of generated ones, and pairs of columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_vae.plots.axes import COLOURS, axes_or_new, letters, marks, thickness
from pyro_vae.utils.checks import check_values, kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["columns"]

_MOST = 6  # columns that are drawn unless they are chosen
_POINTS = 400  # rows of each in a picture of a pair
_BARS = 20  # whole numbers that get a bar each; those on a wider range get a histogram
_NAMED = 12  # classes that have their names beside the axis
_BINS = 24
_LONGEST = 10  # letters of a name or a class


@dataclass(frozen=True)
class _Column:
    """A column of both tables as numbers, with NaN where a value is missing."""

    name: str
    real: np.ndarray
    generated: np.ndarray
    classes: tuple[str, ...] = ()

    @property
    def both(self) -> np.ndarray:
        """All values that are not missing."""
        joined = np.concatenate((self.real, self.generated))
        return joined[~np.isnan(joined)]

    @property
    def is_whole(self) -> bool:
        """Whether each value gets a bar."""
        both = self.both
        whole = bool((both % 1 == 0).all())
        return whole and bool(self.classes or both.max() - both.min() < _BARS)

    @property
    def range(self) -> tuple[float, float]:
        """The ends of the axis."""
        low, high = self.both.min(), self.both.max()
        margin = 0.6 if self.is_whole else 0.05 * (high - low or 1.0)
        return float(low - margin), float(high + margin)


def columns(
    real: Any,
    generated: Any,
    names: Sequence[str] | None = None,
    shown: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Real rows beside generated ones: each column on the diagonal, and pairs below it.

    Numbers have histograms, which are densities. Classes, and whole numbers on a range of 20,
    have bars, which are shares. Below the diagonal are the first 400 rows of each table; whole
    numbers are moved a little, those of real rows to the left. Missing values are left out.

    Arguments:
        real, generated: Frames of pandas, or tensors or arrays of shape ``(N, columns)``, with
            the same columns.
        names: The name of each column of tensors and arrays. None numbers them from 0.
        shown: The names of the columns that are drawn. None draws the first six.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: A table is none of these.
        ValueError: The tables have other columns than each other or than `names`, a column has no
            values, or `shown` has a name that is not there.

    Example:
        >>> real, generated = torch.randn(200, 3), torch.randn(100, 3)
        >>> ax = plots.columns(real, generated, names=["age", "height", "weight"])
        >>> len(ax.child_axes)  # three on the diagonal, and three pairs
        6
    """
    own, other = _opened("real", real, names), _opened("generated", generated, names)
    if own.keys() != other.keys():
        raise ValueError(
            f"generated: got the columns {', '.join(other)}, expected those of real: "
            f"{', '.join(own)}"
        )
    chosen = list(own)[:_MOST] if shown is None else _chosen(shown, list(own))
    drawn = [_column(name, own[name], other[name]) for name in chosen]
    size = len(drawn)
    ax = axes_or_new(ax, (1.5 + 1.6 * size, 1.0 + 1.5 * size))
    ax.set_axis_off()
    for row, vertical in enumerate(drawn):
        for place, horizontal in enumerate(drawn[: row + 1]):
            bounds = (place / size, 1 - (row + 1) / size, 0.9 / size, 0.88 / size)
            cell = ax.inset_axes(bounds)
            if place == row:
                _diagonal(cell, horizontal)
            else:
                _pair(cell, horizontal, vertical)
            _finish(cell, horizontal, vertical, row == size - 1, place == 0, place == row)
    from matplotlib.patches import Patch

    handles = [
        Patch(color=COLOURS[0], alpha=0.5, label="real"),
        Patch(color=COLOURS[1], alpha=0.9, label="generated"),
    ]
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    ax.legend(handles=handles, frameon=False, **(beside if size < 3 else {"loc": "upper right"}))
    return ax


def _opened(argument: str, table: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """The columns of a table by name."""
    if hasattr(table, "columns") and hasattr(table, "iloc"):  # a frame of pandas
        return {str(name): table[name] for name in table.columns}
    if isinstance(table, Tensor):
        table = table.detach().cpu().double().numpy()
    if not isinstance(table, np.ndarray):
        raise TypeError(
            f"{argument}: got {kind(table)}, expected a pandas.DataFrame, a tensor or an array"
        )
    if table.ndim != 2 or not table.size:
        raise ValueError(f"{argument}: got shape {table.shape}, expected (N, columns)")
    if names is None:
        names = [str(place) for place in range(table.shape[1])]
    check_values("names", names)
    if len(names) != table.shape[1] or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"names: got {list(names)}, expected a string for each of the {table.shape[1]} "
            f"columns of {argument}"
        )
    return dict(zip(names, table.T.astype(float), strict=True))


def _chosen(shown: Sequence[str], names: list[str]) -> list[str]:
    """The names of the columns that are drawn."""
    check_values("shown", shown)
    for name in shown:
        if name not in names:
            raise ValueError(f"shown: got {name!r}, expected names of {', '.join(names)}")
    return list(shown)


def _column(name: str, real: Any, generated: Any) -> _Column:
    """A column of both tables, whose classes are the same numbers in both."""
    if isinstance(real, np.ndarray) or _is_number(real):
        found = _Column(name, _floats(real), _floats(generated))
    else:
        own = [values.astype(object) for values in (real, generated)]
        seen = {value for values in own for value in values[values.notna()]}
        order = list(real.cat.categories) if hasattr(real, "cat") else []
        classes = [value for value in order if value in seen]
        classes += sorted(seen - set(classes), key=str)
        codes = {value: float(place) for place, value in enumerate(classes)}
        real, generated = (_floats(values.map(codes)) for values in own)
        found = _Column(name, real, generated, tuple(map(str, classes)))
    for argument, values in (("real", found.real), ("generated", found.generated)):
        if np.isnan(values).all() or np.isinf(values).any():
            raise ValueError(
                f"{argument}: got infinite or no numbers in column {name!r}, expected finite ones"
            )
    return found


def _is_number(series: Any) -> bool:
    """Whether a column of a frame has numbers, and no truth values."""
    return getattr(series.dtype, "kind", "O") in "iuf" and not hasattr(series, "cat")


def _floats(values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    return values.to_numpy(dtype=float, na_value=np.nan)


def _diagonal(cell: "Axes", column: _Column) -> None:
    """Shares of whole numbers as bars, side by side, or densities as histograms."""
    both = column.both
    pairs = ((column.real, 0.5), (column.generated, 0.9))
    if column.is_whole:
        values = np.unique(both)
        for side, (own, alpha) in enumerate(pairs):
            own = own[~np.isnan(own)]
            shares = [(own == value).mean() for value in values]
            places = values + (0.2 if side else -0.2)
            cell.bar(places, shares, 0.4, color=COLOURS[side], alpha=alpha)
        return
    low, high = both.min(), both.max()
    if (both % 1 == 0).all():  # As many whole numbers in each bin, so that none is higher by it.
        width = np.ceil((high - low + 1) / _BINS)
        bins = np.arange(low - 0.5, high + width, width)
    else:
        aside = 0.5 if low == high else 0.0
        bins = np.linspace(low - aside, high + aside, _BINS + 1)
    common: dict[str, Any] = {"bins": bins, "density": True}
    real, generated = (own[~np.isnan(own)] for own, _ in pairs)
    cell.hist(real, color=COLOURS[0], alpha=0.5, **common)
    cell.hist(generated, color=COLOURS[1], histtype="step", linewidth=thickness(1.0), **common)


def _pair(cell: "Axes", horizontal: _Column, vertical: _Column) -> None:
    """The rows of both tables in two of their columns."""
    random = np.random.default_rng(0)
    for side in (0, 1):
        moved = []
        for column in (horizontal, vertical):
            own = (column.generated if side else column.real)[:_POINTS]
            if column.is_whole:
                aside = 0.2 if side else -0.2
                own = own + random.uniform(-0.15, 0.15, len(own))
                own = own + (aside if column is horizontal else 0.0)
            moved.append(own)
        cell.scatter(
            moved[0], moved[1], s=marks(1 / 3) ** 2, alpha=0.5, linewidths=0, color=COLOURS[side]
        )


def _finish(
    cell: "Axes", horizontal: _Column, vertical: _Column, last: bool, first: bool, diagonal: bool
) -> None:
    """Names and ticks at the left and at the bottom, and the name above each diagonal."""
    cell.tick_params(labelsize=letters(0.7), length=2)
    cell.set_xlim(horizontal.range)
    _label_classes(cell, horizontal, "x")
    if diagonal:
        cell.set_title(_short(horizontal.name, 2 * _LONGEST), fontsize=letters(0.9))
        cell.set_yticks([])
    else:
        cell.set_ylim(vertical.range)
        _label_classes(cell, vertical, "y")
    if last:
        cell.set_xlabel(_short(horizontal.name, 2 * _LONGEST), fontsize=letters(0.9))
    else:
        cell.tick_params(labelbottom=False)
    if first and not diagonal:
        cell.set_ylabel(_short(vertical.name, 2 * _LONGEST), fontsize=letters(0.9))
    elif not diagonal:
        cell.tick_params(labelleft=False)


def _label_classes(cell: "Axes", column: _Column, side: str) -> None:
    """The names of the classes as ticks; whole numbers have whole ones."""
    from matplotlib.ticker import MaxNLocator

    if not column.classes:
        if column.is_whole:
            axis = cell.xaxis if side == "x" else cell.yaxis
            axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        return
    if len(column.classes) > _NAMED:
        (cell.set_xticks if side == "x" else cell.set_yticks)([])
        return
    texts = [_short(each, _LONGEST) for each in column.classes]
    if side == "x":
        turned: dict[str, Any] = {}
        if max(map(len, texts)) > 3:
            turned = {"rotation": 45, "ha": "right"}
        cell.set_xticks(range(len(texts)), texts, **turned)
    else:
        cell.set_yticks(range(len(texts)), texts)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
