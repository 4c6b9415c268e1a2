"""What an estimator of log p(x) is, and estimators by their names."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from pyro_vae.evaluation.blocks import Block
from pyro_vae.evaluation.log_densities import Latents


class Estimator(Protocol):
    """What gives weights whose mean over K of them estimates p(x) without bias."""

    name: ClassVar[str]
    """What users call it."""

    advice: ClassVar[tuple[str, ...]]
    """What helps where its weights are unreliable, beside more of them."""

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields K log-weights of each example in chunks, shape ``(samples, N)``."""
        ...

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """The same, and log-weights of draws z of the posterior: E[1 / w] = 1 / p(x)."""
        ...


EXACT = "exact"
"""The estimator that takes no samples, see :func:`~pyro_vae.evaluation.estimators.evidence`."""

Kind = TypeVar("Kind", bound=type[Any])

_NAMED: dict[str, Any] = {}


def named(kind: Kind) -> Kind:
    """Registers a class of estimators under its name."""
    _NAMED[kind.name] = kind
    return kind


def names() -> list[str]:
    """The names of all estimators."""
    return [*_NAMED, EXACT]


def advice_of(name: str) -> tuple[str, ...]:
    """What helps where the weights of an estimator are unreliable, beside more of them."""
    return getattr(_NAMED.get(name), "advice", ())


def settings_of(estimator: object) -> dict[str, Any]:
    """An estimator's fields by name; what is neither number nor string as it prints."""
    names = [field.name for field in fields(estimator)] if is_dataclass(estimator) else []
    values = {name: getattr(estimator, name) for name in names}
    plain = (int, float, str, type(None))
    return {n: value if isinstance(value, plain) else repr(value) for n, value in values.items()}


def parse(estimator: "str | Estimator") -> "Estimator | None":
    """An estimator by its name and numbers, or as it is; None for the exact one.

    ``"ais:100:5"`` is ``AIS(temperatures=100, leapfrog_steps=5)``.

    Raises:
        ValueError: There is none of that name, with these numbers.
        TypeError: It is neither a name nor an estimator.
    """
    if not isinstance(estimator, str):
        if isinstance(estimator, type) or not hasattr(estimator, "log_weights"):
            raise TypeError(
                f"estimator: got {estimator!r}, expected a name or an estimator, such as AIS()"
            )
        return estimator
    if estimator == EXACT:
        return None
    name, *numbers = estimator.split(":")
    try:
        kind = _NAMED[name]
        values = [int(number) for number in numbers]
        signature(kind).bind(*values)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"estimator: got {estimator!r}, expected one of {', '.join(names())}; ais:T:L has "
            "T temperatures and L leapfrog steps"
        ) from None
    return kind(*values)
