"""Checks of arguments that many functions take."""

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
