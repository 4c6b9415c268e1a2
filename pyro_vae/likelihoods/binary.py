"""Likelihoods of binary pixels: 0 or 1."""

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.checks import check_flag, plain
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import out_shape

__all__ = ["Bernoulli"]


class Bernoulli(nn.Module):
    r"""Independent Bernoulli pixels, :math:`p(x|z) = \prod_d \mathrm{Bern}(x_d; \sigma(f_d(z)))`.

    x is 0.0 or 1.0 (pixels ``"binary"``).

    Source: Kingma and Welling (2014), appendix C.1.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to logits of shape ``(*batch, *x_shape)``.
        relaxed: Also score x between 0 and 1, by cross entropy, which is not a density there.

    Raises:
        TypeError: `network` has no ``out_shape``, or `relaxed` is not a bool.

    Example:
        >>> likelihood = likelihoods.Bernoulli(networks.MLP(20, (500,), (28, 28)))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module, relaxed: bool = False) -> None:
        super().__init__()
        check_flag("relaxed", relaxed)
        self.network = network
        self.relaxed = plain(relaxed)
        self._event_dim = len(out_shape(network))

    @staticmethod
    def numbers(relaxed: bool = False) -> int:
        """How many numbers it takes for each pixel: the logit."""
        return 1

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        pixels = distributions.CrossEntropy if self.relaxed else dist.Bernoulli
        return distributions.BernoulliEvent(
            pixels(logits=given(self.network, z, context)), len(out_shape(self.network))
        )

    def extra_repr(self) -> str:
        return "relaxed=True" if self.relaxed else ""
