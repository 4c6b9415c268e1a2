"""Checks of arguments that many functions take."""

import math
from numbers import Integral


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
        isinstance(number, int | float) and not isinstance(number, bool) and 0 < number < math.inf
    )


def check_positive(argument: str, number: float) -> None:
    """Raises ValueError unless `number` is a finite number above 0."""
    if not is_positive(number):
        raise ValueError(f"{argument}: got {number!r}, expected a positive number")


def check_bounds(low: float, high: float) -> None:
    """Raises ValueError unless `low` and `high` are numbers, the one below the other."""
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (low, high))
    if not numbers or not low < high:
        raise ValueError(f"low, high: got {low!r} and {high!r}, expected numbers, low below high")
