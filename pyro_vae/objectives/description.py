"""The description of an objective, by which another process finds the same one again."""

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from pyro.infer import ELBO

from pyro_vae.compile import plain
from pyro_vae.objectives.terms import WithTerms
from pyro_vae.objectives.wrapper import layers

__all__ = ["described"]

_PLAIN = int, float, str, type(None)


def described(objective: ELBO) -> list[str]:
    """Describes what an objective computes: a line for each layer, with its class and numbers.

    Functions among its attributes are described by their name and the numbers that are bound to
    them. Steps that were taken do not count, nor does whether it is compiled.

    Arguments:
        objective: A Pyro ELBO.

    Example:
        >>> from pyro_vae.objectives import described
        >>> described(objectives.ciwae(0.1, 8)) == described(objectives.ciwae(0.2, 8))
        False
    """
    lines = []
    for layer in layers(objective):
        if not isinstance(layer, WithTerms):
            # Pyro guesses the nesting of plates in the first loss.
            values = {n: v for n, v in plain(layer) if n != "max_plate_nesting"}
            functions = {
                name: _function(value)
                for name, value in vars(layer).items()
                if isinstance(value, FunctionType | MethodType | partial)
            }
            lines.append(f"{type(layer).__name__} {values | functions}")
    return lines


def _function(function: Callable[..., Any]) -> str:
    """The name of a function, and the numbers and strings that are bound to it."""
    bound: list[str] = []
    while isinstance(function, partial):
        bound += [repr(value) for value in function.args if isinstance(value, _PLAIN)]
        bound += [f"{n}={v!r}" for n, v in function.keywords.items() if isinstance(v, _PLAIN)]
        function = function.func
    inner = getattr(function, "__func__", function)
    cells = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    values = [*cells, *(getattr(inner, "__defaults__", None) or ())]
    bound += [repr(value) for value in values if isinstance(value, _PLAIN)]
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{name}({', '.join(bound)})"
