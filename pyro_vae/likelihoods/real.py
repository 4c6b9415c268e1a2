"""Likelihoods of real pixels: a location and a scale for each."""

import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.checks import check_df, is_positive, plain
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import event_dim, out_shape

__all__ = ["SCALE_FLOOR", "Gaussian", "Laplace", "Scale", "StudentT"]

SCALE_FLOOR = 1 / 256
"""The smallest scale that is not fixed: one grey level on [0, 1].

Without it, the likelihood of a constant background has no upper bound.
"""

Scale = Literal["pixel", "shared"] | float
"""``"pixel"``: one from the network for each pixel; ``"shared"``: one trained; or a number."""


class _LocationScale(nn.Module):
    """A likelihood with a location and a scale for each pixel."""

    def __init__(self, network: nn.Module, scale: Scale = "pixel") -> None:
        super().__init__()
        self.network = network
        self.scale = plain(scale)
        self._event_dim = len(out_shape(network))
        if isinstance(scale, str) and scale == "pixel":
            self._event_dim = event_dim(network, 2, 'for scale="pixel": location and raw scale')
        elif isinstance(scale, str) and scale == "shared":
            start = math.log(math.expm1(1.0 - SCALE_FLOOR))
            self.raw_scale = nn.Parameter(torch.tensor(start))
        elif not is_positive(scale) or scale < torch.finfo(torch.get_default_dtype()).tiny:
            raise ValueError(
                f'scale: got {scale!r}, expected "pixel", "shared" or a number above 0 in '
                f"{torch.get_default_dtype()}"
            )

    @staticmethod
    def numbers(scale: Scale = "pixel") -> int:
        """How many numbers it takes for each pixel: the location, and the scale if it is one."""
        return 2 if isinstance(scale, str) and scale == "pixel" else 1

    def _loc_and_scale(
        self, z: Tensor, context: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | float]:
        out = given(self.network, z, context)
        if self.scale == "pixel":
            loc, raw_scale = out.unbind(-1 - self._event_dim)
            return loc, F.softplus(raw_scale) + SCALE_FLOOR
        if self.scale == "shared":
            return out, F.softplus(self.raw_scale) + SCALE_FLOOR
        assert not isinstance(self.scale, str)
        return out, self.scale

    def extra_repr(self) -> str:
        return f"scale={self.scale!r}"


class Gaussian(_LocationScale):
    r"""Independent normal pixels, :math:`p(x|z) = \prod_d \mathcal{N}(x_d; \mu_d(z), \sigma_d^2)`.

    x is any number (pixels ``"dequantized"``). The scale is one of three:

    * ``"pixel"``: from the network, :math:`\sigma_d(z) = \mathrm{softplus}(s_d(z)) + 1/256`;
    * ``"shared"``: one trained number for all pixels, :math:`\mathrm{softplus}(s) + 1/256`,
      which starts at 1;
    * a number: fixed. With 1, the log-density is minus half the squared error plus a constant.

    Source: Kingma and Welling (2014), appendix C.2.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to means of shape ``(*batch, *x_shape)``; with
            ``scale="pixel"``, to means and raw scales of shape ``(*batch, 2, *x_shape)``.
        scale: ``"pixel"``, ``"shared"``, or a positive number.

    Raises:
        ValueError: `scale` is none of these, or it is ``"pixel"`` and the network does not give
            two numbers a pixel.

    Example:
        >>> likelihood = likelihoods.Gaussian(networks.MLP(20, (500,), (2, 28, 28)), scale="pixel")
        >>> likelihood(torch.randn(7, 20)).log_prob(torch.rand(7, 28, 28)).shape
        torch.Size([7])
    """

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        return dist.Normal(*self._loc_and_scale(z, context)).to_event(self._event_dim)


class Laplace(_LocationScale):
    r"""Independent Laplace pixels, :math:`p(x_d|z) = e^{-|x_d - \mu_d| / b_d} / (2 b_d)`.

    x is any number (pixels ``"dequantized"``). The scale b is as that of :class:`Gaussian`. With
    the fixed scale 1, the log-density is minus the absolute error plus a constant.

    Arguments:
        network, scale: As those of :class:`Gaussian`, with locations in place of means.

    Raises:
        ValueError: As :class:`Gaussian`.

    Example:
        >>> likelihood = likelihoods.Laplace(networks.MLP(20, (500,), (28, 28)), scale="shared")
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        return dist.Laplace(*self._loc_and_scale(z, context)).to_event(self._event_dim)


class StudentT(_LocationScale):
    r"""Independent Student t pixels, :math:`p(x_d|z) = t_\nu((x_d - \mu_d) / s_d) / s_d`.

    x is any number (pixels ``"dequantized"``). The scale s is as that of :class:`Gaussian`.

    Source: Takahashi et al. (2018), "Student-t variational autoencoder", IJCAI.

    Arguments:
        network, scale: As those of :class:`Gaussian`, with locations in place of means.
        df: Degrees of freedom :math:`\nu`, fixed, at most 1000; above that, use a normal.

    Raises:
        TypeError, ValueError: As :class:`Gaussian`, or `df` is out of range.

    Example:
        >>> likelihood = likelihoods.StudentT(networks.MLP(20, (500,), (2, 28, 28)), df=4)
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module, scale: Scale = "pixel", df: float = 4.0) -> None:
        super().__init__(network, scale)
        check_df(df)
        self.df = plain(df)

    @staticmethod
    def numbers(scale: Scale = "pixel", df: float = 4.0) -> int:
        """How many numbers it takes for each pixel, as :class:`Gaussian`."""
        return _LocationScale.numbers(scale)

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        loc, scale = self._loc_and_scale(z, context)
        df = torch.full_like(loc, self.df)
        return distributions.StudentT(df, loc, scale).to_event(self._event_dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, df={self.df:g}"
