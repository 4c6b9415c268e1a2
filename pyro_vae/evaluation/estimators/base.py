"""The protocol of an estimator of log p(x), and the registry of estimators by name."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from pyro_vae.evaluation.blocks import Block
from pyro_vae.evaluation.log_densities import Latents


class Estimator(Protocol):
    r"""A source of importance weights whose mean is an unbiased estimate of p(x).

    .. math:: E\Big[\frac1K \sum_{k=1}^K w_k\Big] = p(x)

    Any object with these members can be passed as ``log_likelihood(..., estimator=)``. A dataclass
    has its fields in ``LogLikelihood.estimator_settings``.

    Example:
        >>> class Mine:  # importance weighting by the guide
        ...     name, advice = "mine", ("a better guide",)
        ...     def log_weights(self, block, num_samples):
        ...         for log_p_x, log_ratio in block.samples(num_samples):
        ...             yield log_p_x - log_ratio
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> log_likelihood(vae, torch.ones(7, 16), 100, estimator=Mine()).estimator
        'mine'
    """

    name: ClassVar[str]
    """The name by which users select the estimator."""

    advice: ClassVar[tuple[str, ...]]
    """What helps if the weights are unreliable, apart from more of them."""

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields the K log-weights of each example in chunks.

        Arguments:
            block: Examples with their random streams; draws and scores samples.
            num_samples: K.

        Returns:
            An iterator over log-weights in nats. Each chunk has the shape ``(64, N)``; the last
            one may have fewer samples.
        """
        ...

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        r"""Returns :meth:`log_weights`, and log-weights of exact draws of the posterior.

        :func:`~pyro_vae.evaluation.certify` takes the latter for an upper bound of log p(x), since
        :math:`E[1 / w] = 1 / p(x)`.

        Arguments:
            block: Examples with their random streams.
            num_samples: K.
            z: One draw of p(z|x) for each example, as values of the latent sites.

        Returns:
            The iterator of :meth:`log_weights`, and log-weights of shape ``(1, N)``.
        """
        ...


EXACT = "exact"
"""Selects the closed form, see :func:`~pyro_vae.evaluation.estimators.evidence`."""

Kind = TypeVar("Kind", bound=type[Any])

_NAMED: dict[str, Any] = {}


def named(kind: Kind) -> Kind:
    """A decorator that registers a class of estimators under its ``name``."""
    _NAMED[kind.name] = kind
    return kind


def names() -> list[str]:
    """Returns the names of all estimators.

    Example:
        >>> estimators.names()
        ['ais', 'importance', 'prior', 'exact']
    """
    return [*_NAMED, EXACT]


def advice_of(name: str) -> tuple[str, ...]:
    """Returns what helps if the weights of an estimator are unreliable, apart from more of them.

    An unknown name has no advice.

    Example:
        >>> from pyro_vae.evaluation.estimators import advice_of
        >>> advice_of("ais")
        ('more temperatures',)
    """
    return getattr(_NAMED.get(name), "advice", ())


def settings_of(estimator: object) -> dict[str, Any]:
    """Returns an estimator's dataclass fields by name; those that are no number or string as text.

    Example:
        >>> from pyro_vae.evaluation.estimators import settings_of
        >>> settings_of(estimators.AIS(temperatures=100, leapfrog_steps=5))
        {'temperatures': 100, 'leapfrog_steps': 5}
    """
    names = [field.name for field in fields(estimator)] if is_dataclass(estimator) else []
    values = {name: getattr(estimator, name) for name in names}
    plain = (int, float, str, type(None))
    return {n: value if isinstance(value, plain) else repr(value) for n, value in values.items()}


def parse(estimator: "str | Estimator") -> "Estimator | None":
    """Returns the estimator that a text stands for, or an estimator as it is.

    Arguments:
        estimator: A name with the estimator's settings, separated by colons. ``"ais:100:5"`` is
            ``AIS(temperatures=100, leapfrog_steps=5)``.

    Returns:
        The estimator; None for ``"exact"``, which takes no samples.

    Raises:
        ValueError: The name is unknown, or its settings are out of range.
        TypeError: `estimator` is neither a string nor an estimator.

    Example:
        >>> from pyro_vae.evaluation.estimators import parse
        >>> parse("ais:100:5")
        AIS(temperatures=100, leapfrog_steps=5)
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
