"""Checks of arguments that many functions take."""

import math
from numbers import Integral, Real

import torch


def check_count(argument: str, count: int) -> None:
    """Raises ValueError unless `count` is a whole number from 1 up."""
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{argument}: got {count!r}, expected a whole number from 1 up")


def check_seed(seed: int | None) -> None:
    """Raises TypeError or ValueError unless `seed` is None or an int from 0 to 2**32 - 1."""
    if seed is None:
        return
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed: got {seed!r}, expected None or an int from 0 to 2**32 - 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}, expected None or an int from 0 to 2**32 - 1")


def is_positive(number: object) -> bool:
    """Whether `number` is a finite number above 0."""
    return (
        isinstance(number, Real) and not isinstance(number, bool) and 0 < float(number) < math.inf
    )


def check_df(df: float) -> None:
    """Raises ValueError unless `df` is above 0, and small enough for float32 to score a t."""
    if not is_positive(df) or df > 1000:
        raise ValueError(f"df: got {df!r}, expected a number above 0, and of 1000 at most")


def check_interval(low: float, high: float) -> None:
    """Raises ValueError unless `low` and `high` end an interval in torch's default dtype."""
    check_bounds(low, high)
    width = torch.tensor(float(high)) - torch.tensor(float(low))
    if not 0 < width < math.inf:
        raise ValueError(
            f"low, high: got {low!r} and {high!r}, expected ends of a finite interval that "
            f"{torch.get_default_dtype()} tells apart"
        )


def check_bounds(low: float, high: float) -> None:
    """Raises ValueError unless `low` and `high` are numbers, the one below the other."""
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (low, high))
    if not numbers or not low < high:
        raise ValueError(f"low, high: got {low!r} and {high!r}, expected numbers, low below high")
