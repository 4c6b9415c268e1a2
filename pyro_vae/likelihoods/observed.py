"""The likelihood of what is observed of x, where NaN stands for what is not."""

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.checks import check_module
from pyro_vae.utils.context import takes_context

__all__ = ["Observed"]


class Observed(nn.Module):
    r"""A likelihood of the observed elements of x, :math:`p(x_{obs}|z) = \prod_d p(x_d|z)`.

    NaN in x means "not observed". The product is over the elements that are not NaN, so that
    log p(x) is that of the observed elements alone. This is right where whether an element is
    observed depends on the observed ones only (missing at random). Draws and means have no holes.
    The posterior gets x with its NaN, so its network has to be in ``networks.Observed``.

    Source: Mattei and Frellsen (2019), arXiv 1812.02633, section 2.

    Arguments:
        likelihood: A likelihood whose elements are independent given z: any of this package. Its
            distribution is ``Independent``, or has a method ``elementwise_log_prob(value)``.

    Raises:
        TypeError: `likelihood` is not a module.
        ValueError: In ``forward``: the elements of x are not independent given z.

    Example:
        >>> likelihood = likelihoods.Observed(likelihoods.Bernoulli(networks.MLP(2, (16,), 3)))
        >>> x = torch.tensor([[0.0, 1.0, float("nan")]])
        >>> likelihood(torch.zeros(1, 2)).log_prob(x).isfinite()
        tensor([True])
    """

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        check_module("likelihood", likelihood)
        self.likelihood = likelihood

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        given = context if takes_context(self.likelihood) else ()
        return distributions.Observed(self.likelihood(z, *given))
