"""Objectives by name, as the command line writes them: ``"iwae:8"``."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import TypeVar

from pyro.infer import ELBO

from pyro_vae.utils.checks import check_text

__all__ = ["named", "named_outer", "names", "parse"]

Make = TypeVar("Make", bound=Callable[..., ELBO])

_NAMED: dict[str, Callable[..., ELBO]] = {}
_OUTER: dict[str, tuple[str, Callable[..., ELBO]]] = {}


def named(make: Make) -> Make:
    """Registers a function from numbers to an objective, under the function's name."""
    _NAMED[make.__name__] = make
    return make


def named_outer(name: str, number: str) -> Callable[[Make], Make]:
    """Registers a function from an objective and a number to another objective.

    Arguments:
        name: Its name.
        number: The name of the number.
    """

    def register(make: Make) -> Make:
        _OUTER[name] = number, make
        return make

    return register


def names() -> list[str]:
    """The names of the objectives for :func:`parse`, with their arguments.

    Returns:
        A list of names such as ``"ciwae:beta:k"``. Brackets enclose optional arguments.

    Example:
        >>> objectives.names()[:3]
        ['trace_elbo[:num_particles]', 'analytic_kl[:num_particles]',
         'sticking_the_landing[:num_particles]']
    """
    numbers = [
        name + "".join(map(_place, signature(make).parameters.values()))
        for name, make in _NAMED.items()
    ]
    return [*numbers, *(f"{name}:{number}:objective" for name, (number, _) in _OUTER.items())]


def _place(number: Parameter) -> str:
    return f":{number.name}" if number.default is number.empty else f"[:{number.name}]"


def parse(text: str) -> ELBO:
    """Makes an objective from its name and numbers, as the command line takes them.

    Arguments:
        text: One of :func:`names` with numbers, such as ``"trace_elbo"``, ``"iwae:8"`` or
            ``"ciwae:0.5:8"``. ``"warm_up:500:trace_elbo"`` is ``warm_up(trace_elbo(), 500)``.

    Returns:
        A Pyro ELBO.

    Raises:
        ValueError: The name is unknown, or its numbers are missing, too many or out of range.

    Example:
        >>> objectives.parse("iwae:8").num_particles
        8
        >>> objectives.parse("warm_up:500:trace_elbo").steps
        500
    """
    check_text("objective", text)
    name, *numbers = text.split(":")
    try:
        # One name alone is an error: "warm_up:5:warm_up" lacks an objective.
        if name in _OUTER and numbers[1:2] not in ([], [name]):
            _, outer = _OUTER[name]
            number = _number(numbers[0])
        else:
            outer, make = None, _NAMED[name]
            values = [_number(text) for text in numbers]
            signature(make).bind(*values)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"objective: got {text!r}, expected one of {', '.join(names())} with numbers for "
            "the arguments"
        ) from None
    if outer is not None:
        return outer(parse(":".join(numbers[1:])), number)
    return make(*values)


def _number(text: str) -> float:
    return float(text) if set(text) & set(".eE") else int(text)
