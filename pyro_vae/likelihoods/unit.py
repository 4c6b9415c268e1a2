"""Likelihoods of pixels between 0 and 1."""

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import event_dim, out_shape

__all__ = ["Beta", "ContinuousBernoulli"]


class ContinuousBernoulli(nn.Module):
    r"""Independent continuous Bernoullis, :math:`p(x|z) = \prod_d C(l_d)\, e^{x_d l_d}`.

    x is in [0, 1] (pixels ``"dequantized"``). The logits :math:`l = f(z)` may be any numbers, and
    :math:`C(l) = l / (e^l - 1)` normalizes the density.

    Source: Loaiza-Ganem and Cunningham (2019), arXiv 1907.06845, section 3.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to logits of shape ``(*batch, *x_shape)``.

    Example:
        >>> likelihood = likelihoods.ContinuousBernoulli(networks.MLP(20, (500,), (28, 28)))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._event_dim = len(out_shape(network))

    @staticmethod
    def numbers() -> int:
        """How many numbers it takes for each pixel: the logit."""
        return 1

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        return distributions.ContinuousBernoulli(given(self.network, z, context)).to_event(
            self._event_dim
        )


class Beta(nn.Module):
    r"""Independent Beta pixels, :math:`p(x_d|z) \propto x_d^{a_d - 1} (1 - x_d)^{b_d - 1}`.

    x is inside (0, 1) (pixels ``"dequantized"``). The network gives raw a and b, which become
    :math:`\mathrm{softplus}(f) + 10^{-3}`.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to shape ``(*batch, 2, *x_shape)``.

    Raises:
        ValueError: The network does not give two numbers a pixel.

    Example:
        >>> likelihood = likelihoods.Beta(networks.MLP(20, (500,), (2, 28, 28)))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._event_dim = event_dim(network, self.numbers(), "the raw a and b of a Beta")
        self.network = network

    @staticmethod
    def numbers() -> int:
        """How many numbers it takes for each pixel: the raw a and b."""
        return 2

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        a, b = (F.softplus(given(self.network, z, context)) + 1e-3).unbind(-1 - self._event_dim)
        return distributions.Beta(a, b).to_event(self._event_dim)
