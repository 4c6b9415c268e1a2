"""Checks of arguments that many functions take.

The messages start with the name of the argument, and say what came and what was expected.
"""

import math
from numbers import Integral, Real

import torch
from torch import nn

__all__ = [
    "check_bounds",
    "check_count",
    "check_df",
    "check_index",
    "check_interval",
    "check_module",
    "check_seed",
    "is_positive",
    "kind",
]


def check_count(argument: str, count: int) -> None:
    """Raises ValueError unless `count` is a positive integer.

    Example:
        >>> from pyro_vae.utils.checks import check_count
        >>> check_count("z_dim", 0)
        Traceback (most recent call last):
        ValueError: z_dim: got 0, expected a positive integer
    """
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{argument}: got {count!r}, expected a positive integer")


def check_index(argument: str, index: int) -> None:
    """Raises ValueError unless `index` is an integer from 0 up.

    Example:
        >>> check_index("entry", -1)
        Traceback (most recent call last):
        ValueError: entry: got -1, expected an index from 0
    """
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ValueError(f"{argument}: got {index!r}, expected an index from 0")


def check_seed(seed: int | None) -> None:
    """Raises TypeError or ValueError unless `seed` is None or an int from 0 to 2**32 - 1.

    Example:
        >>> from pyro_vae.utils.checks import check_seed
        >>> check_seed(-1)
        Traceback (most recent call last):
        ValueError: seed: got -1, expected None or an int from 0 to 2**32 - 1
    """
    if seed is None:
        return
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed: got {seed!r}, expected None or an int from 0 to 2**32 - 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}, expected None or an int from 0 to 2**32 - 1")


def is_positive(number: object) -> bool:
    """Whether `number` is a finite number above 0.

    Example:
        >>> from pyro_vae.utils.checks import is_positive
        >>> is_positive(0.5), is_positive(float("inf")), is_positive("0.5")
        (True, False, False)
    """
    return (
        isinstance(number, Real) and not isinstance(number, bool) and 0 < float(number) < math.inf
    )


def check_df(df: float) -> None:
    """Raises ValueError unless `df` is above 0 and at most 1000.

    Above 1000 degrees of freedom, the density of a Student t loses digits in float32.

    Example:
        >>> from pyro_vae.utils.checks import check_df
        >>> check_df(0)
        Traceback (most recent call last):
        ValueError: df: got 0, expected a number above 0 and at most 1000
    """
    if not is_positive(df) or df > 1000:
        raise ValueError(f"df: got {df!r}, expected a number above 0 and at most 1000")


def check_interval(low: float, high: float) -> None:
    """Raises ValueError unless `low` and `high` bound a finite interval in torch's default dtype.

    Example:
        >>> from pyro_vae.utils.checks import check_interval
        >>> check_interval(1.0, 1.0 + 1e-12)
        Traceback (most recent call last):
        ValueError: low, high: got 1.0 and 1.000000000001, expected the ends of a finite ...
    """
    check_bounds(low, high)
    width = torch.tensor(float(high)) - torch.tensor(float(low))
    if not 0 < width < math.inf:
        raise ValueError(
            f"low, high: got {low!r} and {high!r}, expected the ends of a finite interval that "
            f"differ in {torch.get_default_dtype()}"
        )


def check_bounds(low: float, high: float) -> None:
    """Raises ValueError unless `low` and `high` are numbers and `low` is below `high`.

    Example:
        >>> from pyro_vae.utils.checks import check_bounds
        >>> check_bounds(1.0, 0.0)
        Traceback (most recent call last):
        ValueError: low, high: got 1.0 and 0.0, expected numbers, low below high
    """
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (low, high))
    if not numbers or not low < high:
        raise ValueError(f"low, high: got {low!r} and {high!r}, expected numbers, low below high")


def kind(value: object) -> str:
    """The type of a value, as an error names it.

    Example:
        >>> kind(3), kind([]), kind(None)
        ('an int', 'a list', 'None')
    """
    name = type(value).__name__
    if value is None:
        return "None"
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def check_module(argument: str, module: object) -> None:
    """Raises TypeError unless `module` is a ``torch.nn.Module``.

    Example:
        >>> from pyro_vae.utils.checks import check_module
        >>> check_module("network", torch.relu)
        Traceback (most recent call last):
        TypeError: network: got a builtin_function_or_method, expected a torch.nn.Module
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{argument}: got {kind(module)}, expected a torch.nn.Module")
