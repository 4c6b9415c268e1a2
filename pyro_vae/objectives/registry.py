"""Objectives by their names and numbers, as a command line writes them."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import TypeVar

from pyro.infer import ELBO

Make = TypeVar("Make", bound=Callable[..., ELBO])

_NAMED: dict[str, Callable[..., ELBO]] = {}
_OUTER: dict[str, Callable[..., ELBO]] = {}


def named(make: Make) -> Make:
    """Registers a function that makes an objective of numbers, under its own name."""
    _NAMED[make.__name__] = make
    return make


def named_outer(make: Make) -> Make:
    """Registers a function that makes an objective of another one and a number of steps."""
    _OUTER[make.__name__] = make
    return make


def names() -> list[str]:
    """The objectives that :func:`parse` knows, as a user writes them: ``"ciwae:beta:k"``."""
    numbers = [
        name + "".join(map(_place, signature(make).parameters.values()))
        for name, make in _NAMED.items()
    ]
    return [*numbers, *(f"{name}:steps:objective" for name in _OUTER)]


def _place(number: Parameter) -> str:
    return f":{number.name}" if number.default is number.empty else f"[:{number.name}]"


def parse(text: str) -> ELBO:
    """An objective by its name and numbers: ``"trace_elbo"``, ``"iwae:8"``, ``"ciwae:0.5:8"``.

    ``"warm_up:500:trace_elbo"`` is ``warm_up(trace_elbo(), 500)``.

    >>> parse("iwae:8").num_particles
    8

    Raises:
        ValueError: The name is unknown, or the numbers do not belong to it or are out of range.
    """
    name, *numbers = text.split(":")
    inner = numbers[1:2]
    if name in _OUTER and inner not in ([], [name]) and numbers[0].isdecimal():
        return _OUTER[name](parse(":".join(numbers[1:])), int(numbers[0]))
    try:
        make = _NAMED[name]
        values = [float(n) if set(n) & set(".eE") else int(n) for n in numbers]
        signature(make).bind(*values)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"objective: got {text!r}, expected one of {', '.join(names())}, with numbers"
        ) from None
    return make(*values)
