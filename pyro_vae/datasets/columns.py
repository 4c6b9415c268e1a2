"""Columns of a table: what kind each one is, and its values as numbers and back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import likelihoods
from pyro_vae.datasets.kinds import KINDS, family_of, kind_of, levels_of, support_of
from pyro_vae.distributions import check_on_support
from pyro_vae.likelihoods import Column
from pyro_vae.utils.checks import plain
from pyro_vae.utils.warn import warn

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TableColumn", "found"]

_NULLABLE = {"bool": "boolean", "int": "Int64"}
"""The dtype of a column of this family in which a number is missing."""


@dataclass(frozen=True)
class TableColumn:
    """What a column of a frame is, and how it becomes numbers.

    Attributes:
        name: Its name.
        kind: ``"real"``, standardized by `loc` and `scale`; ``"class"``, which are 0, 1, ... in
            the order of `classes`; ``"count"`` or ``"raw"``, as it is.
        likelihood: The likelihood of the column.
        dtype: Its dtype in the frame, as pandas writes it.
        family: ``"bool"``, ``"int"``, ``"float"`` or ``"str"``, whatever the dtype.
        holes: Whether values of it were missing.
        loc, scale: The mean and the standard deviation of a real column.
        classes: The values of a column of classes.
        ordered: Whether the categories of a column of dtype category are ordered.
    """

    name: str
    kind: str
    likelihood: Column
    dtype: str
    family: str
    holes: bool = False
    loc: float = 0.0
    scale: float = 1.0
    classes: tuple[Any, ...] = ()
    ordered: bool = False

    def numbers(self, series: "pd.Series", argument: str = "frame") -> Tensor:
        """The values of a column of a frame as numbers, of shape ``(N,)``, with NaN in holes.

        Raises:
            TypeError: The values are of another family.
            ValueError: They are infinite, off the support, or of an unseen class.
        """
        own, missing = f"{argument}, column {self.name!r}", series.isna().to_numpy()
        family = family_of(series, own)
        if family is not None and not self._takes(series, family):
            raise TypeError(f"{own}: got {series.dtype}, expected {self._expected()}")
        if self.kind == "class":
            return _tensor(self._codes(series, missing, own))
        values = series.to_numpy(dtype="float64", na_value=math.nan)
        if np.isinf(values).any():
            first = values[np.isinf(values)][0]
            raise ValueError(f"{own}: got {first}, expected finite numbers or missing ones")
        if self.kind == "real":
            return _tensor((values - self.loc) / self.scale)
        numbers = _tensor(values)
        support = support_of(self.likelihood, self.name)
        check_on_support(own, numbers[torch.from_numpy(~missing)], support)
        rounded = (numbers.double().numpy() != values) & ~missing
        if self.kind == "count" and rounded.any():
            raise ValueError(
                f"{own}: got {values[rounded][0]:.17g}, expected numbers that "
                f'{numbers.dtype} has; kinds={{{self.name!r}: "real"}} standardizes them'
            )
        return numbers

    def _takes(self, series: "pd.Series", family: str) -> bool:
        """Whether values of a family may belong to the column."""
        if family == self.family:
            return True
        if self.kind != "class" and {family, self.family} == {"int", "float"}:
            return True  # A support refuses what is no integer where integers are expected.
        # Integers of which some are missing are floats, unless their dtype is a nullable one.
        whole = family == "float" and self.family == "int"
        return whole and bool((series.dropna() % 1 == 0).all())

    def _expected(self) -> str:
        what = "numbers" if self.kind != "class" else f"classes of family {self.family}"
        return f"{what}, as the {self.dtype} of the table"

    def _codes(self, series: "pd.Series", missing: np.ndarray, own: str) -> np.ndarray:
        import pandas as pd

        index = pd.Index(list(self.classes), dtype=object)
        codes = index.get_indexer(pd.Index(series.astype(object).to_numpy())).astype(float)
        unseen = (codes < 0) & ~missing
        if unseen.any():
            known = ", ".join(map(repr, self.classes[:5]))
            more = f" and {len(self.classes) - 5} more" if len(self.classes) > 5 else ""
            raise ValueError(
                f"{own}: got {plain(series[unseen].iloc[0])!r}, expected a class of the table: "
                f"{known}{more}"
            )
        codes[missing] = math.nan
        return codes

    def values(self, numbers: Tensor) -> "pd.Series":
        """The column of a frame that numbers stand for; those of integers are rounded.

        Raises:
            ValueError: Numbers are no class of the table, infinite, or out of the dtype's range.
        """
        import pandas as pd

        own, wide = f"x, column {self.name!r}", numbers.detach().cpu().double().numpy()
        missing = np.isnan(wide)
        if np.isinf(wide).any():
            raise ValueError(f"{own}: got {wide[np.isinf(wide)][0]}, expected finite numbers")
        if self.kind == "class":
            return self._of_classes(wide, missing, own)
        if self.kind == "real":
            wide = wide * self.scale + self.loc
        if self.family == "float":
            return pd.Series(wide, name=self.name).astype(self.dtype)
        whole = np.rint(wide)
        dtype = _NULLABLE["int"] if missing.any() and self.dtype[0].islower() else self.dtype
        ends = np.iinfo(self.dtype.lower() if self.dtype != "object" else "int64")
        if (whole < ends.min).any() or (whole > ends.max).any():
            raise ValueError(
                f"{own}: got {wide[(whole < ends.min) | (whole > ends.max)][0]:g}, expected a "
                f"number from {ends.min} to {ends.max}, as {self.dtype} has"
            )
        series = pd.Series(pd.array(whole, dtype="Float64"), name=self.name)
        # An object column gets integers, and not floats of their values.
        return (series.astype("Int64") if dtype == "object" else series).astype(dtype)

    def _of_classes(self, codes: np.ndarray, missing: np.ndarray, own: str) -> "pd.Series":
        import pandas as pd

        on = missing | ((codes >= 0) & (codes < len(self.classes)) & (codes % 1 == 0))
        if not on.all():
            raise ValueError(
                f"{own}: got {codes[~on][0]:g}, expected a class: 0 to {len(self.classes) - 1}, "
                "as draws and quantiles are; a mean of classes is none"
            )
        places = np.where(missing, -1, codes).astype(int)
        if self.dtype == "category":
            categories = pd.Index(list(self.classes))
            dtype = pd.CategoricalDtype(categories, ordered=self.ordered)
            return pd.Series(pd.Categorical.from_codes(places, dtype=dtype), name=self.name)
        values = np.array([*self.classes, None], dtype=object)[places]
        series = pd.Series(values, name=self.name, dtype=object)
        if self.family == "str" and self.dtype == "object":
            return series
        holes = missing.any() and self.dtype in ("bool", "object", *_INTEGERS)
        return series.astype(_NULLABLE.get(self.family, self.dtype) if holes else self.dtype)

    def filled(self, series: "pd.Series", numbers: Tensor) -> "pd.Series":
        """A column of a frame with the values of numbers in its holes, and its own dtype.

        Arguments:
            series: The column.
            numbers: One for each row, NaN where a hole stays.
        """
        import pandas as pd

        if not series.notna().any():
            return self.values(numbers).set_axis(series.index)
        numbers = numbers.detach().cpu()
        places = np.flatnonzero(series.isna().to_numpy() & ~torch.isnan(numbers).numpy())
        own = self.values(numbers[places]).astype(object)
        result = series.copy()
        if isinstance(series.dtype, pd.CategoricalDtype):
            result = result.cat.set_categories(self._categories(series, own))
        result.iloc[places] = own.astype(result.dtype).array
        return result

    def _categories(self, series: "pd.Series", more: "pd.Series") -> list[Any]:
        """The categories of a column and more values, in its order, or in that of the table."""
        own = series.cat.categories.tolist()
        added = [each for each in more.unique() if each not in own]
        both = [each for each in self.classes if each in own or each in added]
        agree = [each for each in both if each in own] == own
        return both if added and agree else own + added

    def state(self) -> dict[str, Any]:
        """What rebuilds it, in values of JSON.

        Raises:
            TypeError: Its likelihood is not of this package, or has options that JSON has not.
        """
        options: Mapping[str, Any] = {}
        likelihood: Any = self.likelihood
        if isinstance(likelihood, partial):
            likelihood, options = likelihood.func, likelihood.keywords
        name = getattr(likelihood, "__name__", "")
        known = getattr(likelihoods, name, None) is likelihood
        settings = {key: plain(value) for key, value in options.items()}
        plainly = all(isinstance(v, int | float | str | None) for v in settings.values())
        if not (known and plainly):
            raise TypeError(
                f"table: got the likelihood {self.likelihood!r} of column {self.name!r}, expected "
                "one of pyro_vae.likelihoods with numbers as options, which JSON can name"
            )
        own = {key: getattr(self, key) for key in _KEPT}
        return {**own, "classes": list(self.classes), "likelihood": name, "options": settings}

    @staticmethod
    def of_state(state: Mapping[str, Any]) -> "TableColumn":
        """The column that :meth:`state` gave."""
        likelihood = getattr(likelihoods, state["likelihood"])
        options = dict(state["options"])
        return TableColumn(
            **{key: state[key] for key in _KEPT},
            classes=tuple(state["classes"]),
            likelihood=partial(likelihood, **options) if options else likelihood,
        )


_KEPT = ("name", "kind", "dtype", "family", "holes", "loc", "scale", "ordered")
_INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(values), dtype=torch.get_default_dtype())


def found(series: "pd.Series", name: str, kind: Column | str | None) -> TableColumn:
    """The column of a table that a column of a frame is.

    Arguments:
        series: The column of the frame.
        name: Its name.
        kind: A name of `KINDS`, a likelihood, or None to find out.

    Raises:
        TypeError: The dtype is not supported, or the kind does not fit it.
        ValueError: The column has holes alone, is constant, infinite, or off the support.

    Warns:
        UserWarning: Each value of a column of strings is there once, as those of an identifier.
    """
    import pandas as pd

    own = f"frame, column {name!r}"
    family, observed = family_of(series, own), series.dropna()
    if family is None:
        raise ValueError(f"{own}: got no value that is not missing, expected some: drop it")
    categories = isinstance(series.dtype, pd.CategoricalDtype)
    was_given = kind is not None
    kind, likelihood = _decided(name, kind, family, observed, categories)
    shared: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "dtype": "category" if categories else str(series.dtype),
        "family": family,
        "holes": bool(len(observed) < len(series)),
    }
    if kind == "class":
        classes = _classes(series, observed, family)
        if len(classes) < 2:
            raise ValueError(f"{own}: got {classes[0]!r} alone, expected two classes: drop it")
        if len(classes) == len(observed) > 10 and not (was_given or categories):
            warn(
                f"{own}: got {len(classes)} different values in as many rows, which are no "
                f'classes to learn: drop it, or say kinds={{{name!r}: "class"}}'
            )
        likelihood = _of_classes(likelihood, len(classes), own)
        ordered = bool(categories and series.dtype.ordered)
        return TableColumn(**shared, likelihood=likelihood, classes=classes, ordered=ordered)
    if kind == "count" and likelihood is None:
        likelihood = likelihoods.NegativeBinomial
    if kind != "real":
        assert likelihood is not None
        return TableColumn(**shared, likelihood=likelihood)
    values = observed.to_numpy(dtype="float64")
    if np.isinf(values).any():
        first = values[np.isinf(values)][0]
        raise ValueError(f"{own}: got {first}, expected finite numbers or missing ones")
    with np.errstate(over="ignore", invalid="ignore"):
        loc, scale = float(values.mean()), float(values.std())
    if values.min() == values.max() or not 0 < scale < math.inf:
        raise ValueError(
            f"{own}: got numbers from {values.min():g} to {values.max():g} with the standard "
            f"deviation {scale:g}, expected a positive finite one: drop a constant column"
        )
    gaussian = likelihoods.Gaussian if likelihood is None else likelihood
    return TableColumn(**shared, likelihood=gaussian, loc=loc, scale=scale)


def _decided(
    name: str, given: Column | str | None, family: str, observed: "pd.Series", categories: bool
) -> tuple[str, Column | None]:
    """The kind of a column, and its likelihood where that is given."""
    own = f"kinds, column {name!r}"
    if isinstance(given, str):
        if given not in KINDS:
            names = ", ".join(KINDS)
            raise ValueError(f"{own}: got {given!r}, expected one of {names}, or a likelihood")
        kind, likelihood = given, None
    elif given is likelihoods.Categorical:  # which takes as many levels as there are
        kind, likelihood = "class", None
    elif given is not None:
        kind, likelihood = kind_of(given, name), given
    elif family in ("bool", "str") or categories:
        return "class", None
    elif family == "float":
        return "real", None
    elif observed.nunique() <= 10:
        return "class", None
    else:
        return ("count" if observed.min() >= 0 else "real"), None
    if kind != "class" and (family not in ("int", "float") or categories):
        raise TypeError(f"{own}: got {kind} for a column of {observed.dtype}, expected class")
    return kind, likelihood


def _classes(series: "pd.Series", observed: "pd.Series", family: str) -> tuple[Any, ...]:
    """The classes of a column, in their order."""
    if hasattr(series, "cat"):
        return tuple(plain(value) for value in series.cat.categories.tolist())
    if family == "bool":
        return (False, True)
    return tuple(sorted(plain(value) for value in observed.unique().tolist()))


def _of_classes(likelihood: Column | None, count: int, own: str) -> Column:
    """The likelihood of so many classes."""
    if likelihood is None:
        return (
            likelihoods.Bernoulli if count == 2 else partial(likelihoods.Categorical, levels=count)
        )
    takes = levels_of(likelihood, own)
    if takes != count:
        raise ValueError(f"{own}: got {count} classes, expected the {takes} of {likelihood}")
    return likelihood
