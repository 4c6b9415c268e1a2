"""Likelihoods of grey levels: 0, 1, ..., levels - 1."""

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.checks import check_count, plain
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import event_dim

__all__ = ["Categorical", "DiscretizedLogistic"]


class Categorical(nn.Module):
    r"""Independent categorical levels, :math:`P(x_d = l|z) = \mathrm{softmax}_l f_d(z)`.

    x is one of 0.0, 1.0, ..., levels - 1 (pixels ``"levels"``).

    Source: van den Oord, Kalchbrenner and Kavukcuoglu (2016), arXiv 1601.06759, section 3.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to shape ``(*batch, levels, *x_shape)``.
        levels: Number of levels.

    Raises:
        ValueError: `levels` is not a positive integer, or the network does not give that many
            numbers a pixel.

    Example:
        >>> likelihood = likelihoods.Categorical(networks.MLP(20, (50,), (256, 28, 28)))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module, levels: int = 256) -> None:
        super().__init__()
        self._event_dim = event_dim(network, self.numbers(levels), "one logit for each level")
        self.network = network
        self.levels = levels

    @staticmethod
    def numbers(levels: int = 256) -> int:
        """How many numbers it takes for each pixel: a logit for each level."""
        check_count("levels", levels)
        return plain(levels)

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        logits = given(self.network, z, context).movedim(-1 - self._event_dim, -1)
        return distributions.Levels(logits=logits).to_event(self._event_dim)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class DiscretizedLogistic(nn.Module):
    r"""Independent levels from logistics, or mixtures of them, cut into bins.

    x is one of 0.0, 1.0, ..., levels - 1 (pixels ``"levels"``). Locations and scales refer to
    x / (levels - 1), where a bin has the width :math:`w = 1 / (levels - 1)`. The scales are
    :math:`s = \mathrm{softplus}(f) + w / 8`.

    Source: Salimans et al. (2017), arXiv 1701.05517, section 2.1.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to shape ``(*batch, k, *x_shape)``. For one
            component, k is 2: location and raw scale. Else it is ``3 * components``: the logits of
            the weights, the locations, the raw scales.
        levels: Number of levels, 2 or more.
        components: Number of logistics a pixel.

    Raises:
        ValueError: `levels` or `components` is out of range, or the network does not fit them.

    Example:
        >>> network = networks.MLP(20, (50,), (3 * 5, 28, 28))
        >>> likelihood = likelihoods.DiscretizedLogistic(network, components=5)
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module, levels: int = 256, components: int = 1) -> None:
        super().__init__()
        count = self.numbers(levels, components)
        self._event_dim = event_dim(network, count, f"the parameters of {components} logistics")
        self.network = network
        self.levels = levels
        self.components = components

    @staticmethod
    def numbers(levels: int = 256, components: int = 1) -> int:
        """How many numbers it takes for each pixel: those of the logistics."""
        check_count("levels", levels)
        check_count("components", components)
        if levels < 2:
            raise ValueError(f"levels: got {levels}, expected 2 or more")
        return 2 if components == 1 else 3 * plain(components)

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        numbers = given(self.network, z, context).movedim(-1 - self._event_dim, -1)
        if self.components == 1:
            loc, raw_scale = numbers.split(1, -1)
            logits = torch.zeros_like(loc)
        else:
            logits, loc, raw_scale = numbers.chunk(3, -1)
        scale = F.softplus(raw_scale) + 1 / (8 * (self.levels - 1))
        pixels = distributions.DiscretizedLogistic(logits, loc, scale, self.levels)
        return pixels.to_event(self._event_dim)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, components={self.components}"
