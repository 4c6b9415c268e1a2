"""Kinds of columns: what pandas says of a column, and what a likelihood says of its values."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyro_vae.distributions import Columns, is_class, is_real
from pyro_vae.likelihoods import Column
from pyro_vae.likelihoods import Columns as ColumnsLikelihood

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "family_of", "kind_of", "levels_of", "support_of"]

KINDS = ("real", "class", "count")
"""The names of kinds: standardized numbers, classes, and integers from 0 up."""


_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool, np.bool_),
    "int": (int, np.integer),
    "float": (float, np.floating),
    "str": (str,),
}


def family_of(series: "pd.Series", own: str) -> str | None:
    """``"bool"``, ``"int"``, ``"float"`` or ``"str"``; None if all values are missing.

    Arguments:
        series: A column of a frame.
        own: How an error names it.

    Raises:
        TypeError: It has values of another type, such as times.
    """
    import pandas as pd
    from pandas.api import types

    dtype: Any = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        if not series.notna().any():
            return None
        return family_of(pd.Series(dtype.categories), own)
    objects = types.is_object_dtype(dtype)
    if not series.notna().any() and objects:
        return None
    family = None
    if isinstance(dtype, pd.ArrowDtype | pd.SparseDtype):
        family = None  # which has rules of its own for what is missing
    elif types.is_bool_dtype(dtype):
        family = "bool"
    elif types.is_integer_dtype(dtype):
        family = "int"
    elif types.is_float_dtype(dtype):
        family = "float"
    elif isinstance(dtype, pd.StringDtype):
        family = "str"
    elif objects:
        family = _of_objects(series, own)
    if family is None:
        raise TypeError(
            f"{own}: got {dtype}, expected numbers, booleans, strings or categories: turn times "
            'into numbers, such as (frame["t"] - start).dt.total_seconds(), and other values into '
            "strings"
        )
    return family if series.notna().any() else None


def _of_objects(series: "pd.Series", own: str) -> str:
    """The family of a column of Python objects, which are all of one type."""
    kinds = set(series.dropna().map(type))
    for family, own_types in _TYPES.items():
        if all(issubclass(each, own_types) for each in kinds) and not (
            family == "int" and bool in kinds  # which Python has as integers
        ):
            return family
    names = ", ".join(sorted(each.__name__ for each in kinds))
    raise TypeError(f"{own}: got objects of {names}, expected all of bool, int, float or str")


class _Zeros(nn.Module):
    """A network whose output is 0."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.out_shape = torch.Size((count,))

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(*z.shape[:-1], *self.out_shape)


def _distribution(likelihood: Column, name: str) -> Columns:
    """The distribution of a column, with zeros for its numbers."""
    columns = {name: likelihood}
    try:
        part = ColumnsLikelihood(_Zeros(ColumnsLikelihood.numbers(columns)), columns)
        with torch.no_grad():
            return part(torch.zeros(1))
    except (TypeError, ValueError) as error:
        known = ValueError if isinstance(error, ValueError) else TypeError
        raise known(f"kinds: {error}") from error


def support_of(likelihood: Column, name: str) -> Constraint:
    """The support of the numbers of a column."""
    return _distribution(likelihood, name).support.supports[0]


def kind_of(likelihood: Column, name: str) -> str:
    """What the numbers of a likelihood are: a name of `KINDS`, or ``"raw"``.

    It is read off the distribution: classes from its type, all else from its support. Numbers of
    an interval, for example, are raw: they are taken as they are.
    """
    distribution = _distribution(likelihood, name)
    if is_class(distribution.parts[0]):
        return "class"
    support = distribution.support.supports[0]
    if is_real(support):
        return "real"
    return "count" if support.is_discrete else "raw"


def levels_of(likelihood: Column, name: str) -> int:
    """The number of classes that a likelihood has."""
    support: Any = support_of(likelihood, name)
    return int(getattr(support, "upper_bound", 1)) + 1
