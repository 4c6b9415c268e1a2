"""Checks of arguments that many functions take.

The messages start with the name of the argument, and say what came and what was expected.
"""

import math
from collections.abc import Collection, Mapping
from numbers import Integral, Real
from os import PathLike
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "check_bounds",
    "check_count",
    "check_df",
    "check_examples",
    "check_flag",
    "check_function",
    "check_index",
    "check_interval",
    "check_mapping",
    "check_module",
    "check_number",
    "check_path",
    "check_positive",
    "check_seed",
    "check_tensor",
    "check_text",
    "check_values",
    "is_positive",
    "is_sequence",
    "kind",
    "plain",
]

Value = TypeVar("Value")


def check_count(argument: str, count: int, low: int = 1) -> None:
    """Raises ValueError unless `count` is an integer from `low` up, 1 or 0.

    Example:
        >>> from pyro_vae.utils.checks import check_count
        >>> check_count("z_dim", 0)
        Traceback (most recent call last):
        ValueError: z_dim: got 0, expected a positive integer
    """
    if not isinstance(count, Integral) or isinstance(count, bool) or count < low:
        expected = "a positive integer" if low else "an integer from 0 up"
        raise ValueError(f"{argument}: got {count!r}, expected {expected}")


def check_index(argument: str, index: int) -> None:
    """Raises ValueError unless `index` is an integer from 0 up.

    Example:
        >>> check_index("entry", -1)
        Traceback (most recent call last):
        ValueError: entry: got -1, expected an index from 0
    """
    if not isinstance(index, Integral) or isinstance(index, bool) or index < 0:
        raise ValueError(f"{argument}: got {index!r}, expected an index from 0")


def check_seed(seed: int | None, argument: str = "seed") -> None:
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
        raise TypeError(f"{argument}: got {seed!r}, expected None or an int from 0 to 2**32 - 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"{argument}: got {seed}, expected None or an int from 0 to 2**32 - 1")


def is_positive(number: object) -> bool:
    """Whether `number` is a finite number above 0.

    Example:
        >>> from pyro_vae.utils.checks import is_positive
        >>> is_positive(0.5), is_positive(float("inf")), is_positive("0.5")
        (True, False, False)
    """
    number = plain(number)
    return _is_number(number) and 0 < float(number) < math.inf


def check_positive(argument: str, number: float) -> None:
    """Raises TypeError or ValueError unless `number` is a finite number above 0.

    Example:
        >>> from pyro_vae.utils.checks import check_positive
        >>> check_positive("limit", 0.0)
        Traceback (most recent call last):
        ValueError: limit: got 0.0, expected a finite number above 0
    """
    check_number(argument, number, above=0)


def check_number(
    argument: str,
    number: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    use: str = "",
    nan: bool = False,
    none: bool = False,
) -> None:
    """Raises TypeError or ValueError unless `number` is a finite number in a range.

    Arguments:
        argument: Its name.
        number: A number of Python or NumPy, or a tensor that has one.
        low, high: The smallest and the greatest number; none by default.
        above, below: The ends of the range where they are not in it.
        use: What the number is for, at the end of the message.
        nan: Whether NaN is taken too.
        none: Whether None is taken too.

    Example:
        >>> from pyro_vae.utils.checks import check_number
        >>> check_number("lr", -1.0, 0, use="as learning rate")
        Traceback (most recent call last):
        ValueError: lr: got -1.0, expected a finite number from 0 up as learning rate
        >>> check_number("decay", np.float32(1), 0, below=1)
        Traceback (most recent call last):
        ValueError: decay: got 1.0, expected a number from 0 to less than 1
    """
    if none and number is None:
        return
    python, end = plain(number), (f" {use}" if use else "") + _or_none(none)
    if not _is_number(python):
        raise TypeError(f"{argument}: got {number!r}, expected a number{end}")
    value = float(python)
    taken = math.isfinite(value) and low <= value <= high and above < value < below
    if not taken and not (nan and math.isnan(value)):
        expected = _range(max(low, above), low > above, min(high, below), high < below)
        raise ValueError(f"{argument}: got {python!r}, expected {expected}{end}")


def _is_number(value: object) -> TypeGuard[Real]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _range(low: float, with_low: bool, high: float, with_high: bool) -> str:
    """A range of numbers in words; whether an end belongs to it tells "from" and "above" apart."""
    if high == math.inf:
        bound = "" if low == -math.inf else f" from {low:g} up" if with_low else f" above {low:g}"
        return f"a finite number{bound}"
    if with_low:
        return f"a number from {low:g} to {'' if with_high else 'less than '}{high:g}"
    between = f"above {low:g} and at most" if with_high else f"between {low:g} and"
    return f"a number {between} {high:g}"


def plain(value: Value) -> Value:
    """The number or flag of Python for one of NumPy, or for a tensor that has one.

    Anything else is returned as it is. What is stored is made plain, so that it prints alike, and
    JSON takes it.

    Example:
        >>> from pyro_vae.utils.checks import plain
        >>> plain(np.float32(0.5)), plain(np.True_), plain(torch.tensor([3])), plain("3")
        (0.5, True, 3, '3')
    """
    if isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1:
        return value.item()  # type: ignore[return-value]  # of another class, for the same use
    if isinstance(value, Real) and not isinstance(value, int | float):
        return int(value) if isinstance(value, Integral) else float(value)  # type: ignore[return-value]
    return value


def check_flag(argument: str, flag: object, *, auto: bool = False) -> None:
    """Raises TypeError unless `flag` is True or False, or is ``"auto"`` where `auto` says so.

    Example:
        >>> from pyro_vae.utils.checks import check_flag
        >>> check_flag("sample", "yes")
        Traceback (most recent call last):
        TypeError: sample: got 'yes', expected True or False
    """
    if not (isinstance(flag, bool | np.bool_) or (auto and flag == "auto")):
        expected = 'True, False or "auto"' if auto else "True or False"
        raise TypeError(f"{argument}: got {flag!r}, expected {expected}")


def check_text(argument: str, text: object) -> None:
    """Raises TypeError unless `text` is a string.

    Example:
        >>> from pyro_vae.utils.checks import check_text
        >>> check_text("title", 3)
        Traceback (most recent call last):
        TypeError: title: got an int, expected a string
    """
    if not isinstance(text, str):
        raise TypeError(f"{argument}: got {kind(text)}, expected a string")


def check_path(argument: str, path: object, *, none: bool = False) -> None:
    """Raises TypeError unless `path` is a string or a ``Path``, or is None where `none` says so.

    Example:
        >>> from pyro_vae.utils.checks import check_path
        >>> check_path("folder", None)
        Traceback (most recent call last):
        TypeError: folder: got None, expected a string or a Path
    """
    if not (isinstance(path, str | PathLike) or (none and path is None)):
        raise TypeError(
            f"{argument}: got {kind(path)}, expected a string or a Path{_or_none(none)}"
        )


def check_function(argument: str, function: object, *, none: bool = False) -> None:
    """Raises TypeError unless `function` can be called, or is None where `none` says so.

    Example:
        >>> from pyro_vae.utils.checks import check_function
        >>> check_function("decode", "f")
        Traceback (most recent call last):
        TypeError: decode: got a str, expected a function
    """
    if not (callable(function) or (none and function is None)):
        raise TypeError(f"{argument}: got {kind(function)}, expected a function{_or_none(none)}")


def check_mapping(
    argument: str, mapping: object, of: str = "names to values", *, empty: bool = False
) -> None:
    """Raises TypeError or ValueError unless `mapping` is one, with at least one entry.

    Arguments:
        argument: Its name.
        mapping: The mapping.
        of: What it maps to what, for the message.
        empty: Whether one without entries is taken too.

    Example:
        >>> from pyro_vae.utils.checks import check_mapping
        >>> check_mapping("rows", {})
        Traceback (most recent call last):
        ValueError: rows: got none, expected at least one
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{argument}: got {kind(mapping)}, expected a mapping of {of}")
    if not mapping and not empty:
        raise ValueError(f"{argument}: got none, expected at least one")


def _or_none(none: bool) -> str:
    return " or None" if none else ""


def check_values(argument: str, values: object) -> None:
    """Raises TypeError or ValueError unless `values` is a sequence with one entry or more.

    Example:
        >>> from pyro_vae.utils.checks import check_values
        >>> check_values("sizes", [])
        Traceback (most recent call last):
        ValueError: sizes: got none, expected at least one
    """
    if not is_sequence(values):
        raise TypeError(f"{argument}: got {kind(values)}, expected a sequence")
    if not len(values):
        raise ValueError(f"{argument}: got none, expected at least one")


def is_sequence(values: object) -> TypeGuard[Collection[Any]]:
    """Whether `values` is a sequence, an array or a tensor of entries, and no string.

    Example:
        >>> from pyro_vae.utils.checks import is_sequence
        >>> is_sequence([1, 2]), is_sequence(torch.zeros(2)), is_sequence("12"), is_sequence(12)
        (True, True, False, False)
    """
    single = isinstance(values, str | bytes | Mapping) or getattr(values, "ndim", 1) == 0
    return isinstance(values, Collection) and not single


def check_tensor(argument: str, value: object, *names: str) -> None:
    """Raises TypeError or ValueError unless `value` is a tensor with dimensions of these names.

    Example:
        >>> from pyro_vae.utils.checks import check_tensor
        >>> check_tensor("z", torch.zeros(3), "N", "z_dim")
        Traceback (most recent call last):
        ValueError: z: got shape (3,), expected (N, z_dim)
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: got {kind(value)}, expected a torch.Tensor")
    if value.dim() != len(names):
        expected = ", ".join(names) + ("," if len(names) == 1 else "")
        raise ValueError(f"{argument}: got shape {tuple(value.shape)}, expected ({expected})")


def check_examples(argument: str, x: Tensor) -> None:
    """Raises ValueError unless a tensor has a first dimension, with one example or more.

    Example:
        >>> from pyro_vae.utils.checks import check_examples
        >>> check_examples("x", torch.zeros(0, 4))
        Traceback (most recent call last):
        ValueError: x: got no examples (shape (0, 4)), expected at least one
    """
    if not x.dim() or not len(x):
        shape = tuple(x.shape)
        raise ValueError(f"{argument}: got no examples (shape {shape}), expected at least one")


def check_df(df: float) -> None:
    """Raises TypeError or ValueError unless `df` is above 0 and at most 1000.

    Above 1000 degrees of freedom, the density of a Student t loses digits in float32.

    Example:
        >>> from pyro_vae.utils.checks import check_df
        >>> check_df(0)
        Traceback (most recent call last):
        ValueError: df: got 0, expected a number above 0 and at most 1000
    """
    check_number("df", df, above=0, high=1000)


def check_interval(low: float, high: float) -> None:
    """Raises ValueError unless `low` and `high` bound a finite interval in torch's default dtype.

    Example:
        >>> from pyro_vae.utils.checks import check_interval
        >>> check_interval(1.0, 1.0 + 1e-12)
        Traceback (most recent call last):
        ValueError: low, high: got 1.0 and 1.000000000001, expected the ends of a finite ...
    """
    check_bounds(low, high)
    width = torch.tensor(float(plain(high))) - torch.tensor(float(plain(low)))
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
    low, high = plain(low), plain(high)
    if not (_is_number(low) and _is_number(high) and low < high):
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
