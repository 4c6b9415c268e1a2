"""Tolerances that follow from what goes into a number: its rounding, or its sampling.

They hold for any order of a sum, and so on any processor: another instruction set sums in another
order and rounds functions otherwise.
"""

import math

import torch
from torch import Tensor


def rounding(terms: int, dtype: torch.dtype = torch.float32) -> float:
    r"""The error of a sum of so many rounded numbers, over the sum of their absolute values.

    :math:`\min(n, 8 \sqrt n)\, u` with the unit roundoff u. In any order it is at most
    :math:`(n - 1)\, u`, and :math:`\lambda \sqrt n\, u` but for a chance of about
    :math:`2 e^{-\lambda^2 / 2}`. A product, a quotient and a call of exp or log count as one term
    more each. Source: Higham and Mary (2019), SIAM Journal on Scientific Computing 41, theorem
    2.4.
    """
    unit = torch.finfo(dtype).eps / 2
    return min(terms, 8 * math.sqrt(terms)) * unit


CLOSE = 1e-9
"""Relative, for float64: ten million roundings, so that no order of a sum is seen."""


def assert_rounded(
    value: Tensor, expected: Tensor, terms: int, magnitude: Tensor | float | None = None
) -> None:
    """Holds two roundings of the same sums against each other.

    Arguments:
        value, expected: Of the same shape; the tolerance is that of the dtype of `value`.
        terms: How many numbers each is the sum of, calls of functions among them.
        magnitude: The sum of their absolute values; None for sums of numbers of one sign.
    """
    size = expected.double().abs() if magnitude is None else torch.as_tensor(magnitude).double()
    error = (value.double() - expected.double()).abs()
    excess = error - rounding(terms, value.dtype) * size
    assert (excess <= 0).all(), f"{excess.max():.3g} above {(error - excess).max():.3g}"


def within(values: Tensor, expected: Tensor | float, errors: float = 5.5) -> None:
    """Holds the mean of independent values against a number, by its standard error.

    Of 50 numbers with 60 values each, one is beyond 5.5 of them once in 20,000 seeds.
    """
    stderr = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - expected).abs() <= errors * stderr + 1e-9).all()


def same_mean(a: Tensor, b: Tensor, errors: float = 5.5) -> None:
    """Holds the means of two samples against each other, number by number."""
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() <= errors * error + 1e-9).all()
