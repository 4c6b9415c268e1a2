"""Likelihoods of counts: 0, 1, ..."""

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import event_dim, out_shape

__all__ = ["NegativeBinomial", "Poisson"]


class Poisson(nn.Module):
    r"""Independent Poisson counts with rates :math:`e^{f_d(z)} + 10^{-4}`.

    x is a count: 0.0, 1.0, ... (pixels ``"levels"``).

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to log-rates of shape ``(*batch, *x_shape)``.

    Example:
        >>> likelihood = likelihoods.Poisson(networks.MLP(20, (500,), 2000))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([2000])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._event_dim = len(out_shape(network))

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        return dist.Poisson(given(self.network, z, context).exp() + 1e-4).to_event(self._event_dim)


class NegativeBinomial(nn.Module):
    r"""Independent counts with mean :math:`\mu_d` and variance :math:`\mu_d + \mu_d^2 / r_d`.

    x is a count: 0.0, 1.0, ... (pixels ``"levels"``). The network gives log-means f and raw
    dispersions g: :math:`\mu = e^f` and :math:`r = \mathrm{softplus}(g) + 10^{-4}`. As r grows,
    the distribution approaches a Poisson.

    Source: Lopez et al. (2018), "Deep generative modeling for single-cell transcriptomics".

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to shape ``(*batch, 2, *x_shape)``.

    Raises:
        ValueError: The network does not give two numbers a pixel.

    Example:
        >>> likelihood = likelihoods.NegativeBinomial(networks.MLP(20, (500,), (2, 2000)))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([2000])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._event_dim = event_dim(network, 2, "a log-mean and a raw r")
        self.network = network

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        log_mean, raw_r = given(self.network, z, context).unbind(-1 - self._event_dim)
        r = F.softplus(raw_r) + 1e-4
        pixels = distributions.NegativeBinomial(r, logits=log_mean - r.log())
        return pixels.to_event(self._event_dim)
