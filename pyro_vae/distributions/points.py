"""Point values of distributions: their means, or what stands for a mean that is missing."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["latent_point", "point"]

_DRAWS = 32  # Their average replaces the mean of a distribution that has no finite one.


def latent_point(q_z: dist.Distribution) -> Tensor:
    """The mean of a posterior; where it is missing or not finite, the average of 32 draws.

    Example:
        >>> from pyro_vae.distributions import latent_point
        >>> latent_point(pyro.distributions.Normal(torch.zeros(7, 2), 1.0).to_event(1)).shape
        torch.Size([7, 2])
    """
    return _finite(_mean(q_z), lambda: q_z.sample((_DRAWS,)).mean(0))


def _mean(distribution: dist.Distribution) -> Tensor | None:
    try:
        return distribution.mean
    except NotImplementedError:
        return None


def point(p_x: dist.Distribution) -> Tensor:
    """The mean of a likelihood; where it is missing or not finite, its most probable value.

    A distribution that has neither gives the average of 32 draws.

    Example:
        >>> from pyro_vae.distributions import point
        >>> point(pyro.distributions.Normal(torch.zeros(7, 2), 1.0).to_event(1)).shape
        torch.Size([7, 2])
    """

    def most_probable() -> Tensor:
        try:
            return p_x.mode
        except NotImplementedError:
            return p_x.sample((_DRAWS,)).mean(0)

    return _finite(_mean(p_x), most_probable)


def _finite(value: Tensor | None, other: Callable[[], Tensor]) -> Tensor:
    """Replaces the values that are not finite."""
    if value is None:
        return other()
    finite = torch.isfinite(value)
    return value if finite.all() else torch.where(finite, value, other())
