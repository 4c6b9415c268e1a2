"""Likelihoods p(x|z): modules whose ``forward(z)`` returns a distribution over x.

For z of shape ``(*batch, z_dim)``, the distribution has ``batch_shape batch`` and ``event_shape
x_shape``. Any module with such a ``forward`` can be used as a likelihood. One that needs k > 1
numbers a pixel takes a network whose output has the shape ``(*batch, k, *x_shape)``.
"""

import math
from typing import Literal

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.checks import check_count, check_df, is_positive
from pyro_vae.utils.shapes import event_dim, out_shape

__all__ = [
    "SCALE_FLOOR",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "NegativeBinomial",
    "Poisson",
    "Scale",
    "StudentT",
]


def __dir__() -> list[str]:
    return __all__


SCALE_FLOOR = 1 / 256
"""The smallest scale that is not fixed: one grey level on [0, 1].

Without it, the likelihood of a constant background has no upper bound.
"""

Scale = Literal["pixel", "shared"] | float
"""``"pixel"``: one from the network for each pixel; ``"shared"``: one trained; or a number."""


class Bernoulli(nn.Module):
    r"""Independent Bernoulli pixels, :math:`p(x|z) = \prod_d \mathrm{Bern}(x_d; \sigma(f_d(z)))`.

    x is 0.0 or 1.0 (pixels ``"binary"``).

    Source: Kingma and Welling (2014), appendix C.1.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to logits of shape ``(*batch, *x_shape)``.
        relaxed: Also score x between 0 and 1, by cross entropy, which is not a density there.

    Example:
        >>> likelihood = likelihoods.Bernoulli(networks.MLP(20, (500,), (28, 28)))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module, relaxed: bool = False) -> None:
        super().__init__()
        self.network = network
        self.relaxed = relaxed
        self._event_dim = len(out_shape(network))

    def forward(self, z: Tensor) -> dist.Distribution:
        pixels = distributions.CrossEntropy if self.relaxed else dist.Bernoulli
        return distributions.BernoulliEvent(
            pixels(logits=self.network(z)), len(out_shape(self.network))
        )

    def extra_repr(self) -> str:
        return "relaxed=True" if self.relaxed else ""


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

    def forward(self, z: Tensor) -> dist.Distribution:
        return distributions.ContinuousBernoulli(self.network(z)).to_event(self._event_dim)


class _LocationScale(nn.Module):
    """A likelihood with a location and a scale for each pixel."""

    def __init__(self, network: nn.Module, scale: Scale = "pixel") -> None:
        super().__init__()
        self.network = network
        self.scale = scale
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

    def _loc_and_scale(self, z: Tensor) -> tuple[Tensor, Tensor | float]:
        out = self.network(z)
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

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Normal(*self._loc_and_scale(z)).to_event(self._event_dim)


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

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Laplace(*self._loc_and_scale(z)).to_event(self._event_dim)


class StudentT(_LocationScale):
    r"""Independent Student t pixels, :math:`p(x_d|z) = t_\nu((x_d - \mu_d) / s_d) / s_d`.

    x is any number (pixels ``"dequantized"``). The scale s is as that of :class:`Gaussian`.

    Source: Takahashi et al. (2018), "Student-t variational autoencoder", IJCAI.

    Arguments:
        network, scale: As those of :class:`Gaussian`, with locations in place of means.
        df: Degrees of freedom :math:`\nu`, fixed, at most 1000; above that, use a normal.

    Raises:
        ValueError: As :class:`Gaussian`, or `df` is out of range.

    Example:
        >>> likelihood = likelihoods.StudentT(networks.MLP(20, (500,), (2, 28, 28)), df=4)
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([28, 28])
    """

    def __init__(self, network: nn.Module, scale: Scale = "pixel", df: float = 4.0) -> None:
        super().__init__(network, scale)
        check_df(df)
        self.df = df

    def forward(self, z: Tensor) -> dist.Distribution:
        loc, scale = self._loc_and_scale(z)
        df = torch.full_like(loc, self.df)
        return distributions.StudentT(df, loc, scale).to_event(self._event_dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, df={self.df:g}"


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
        self._event_dim = event_dim(network, 2, "the raw a and b of a Beta")
        self.network = network

    def forward(self, z: Tensor) -> dist.Distribution:
        a, b = (F.softplus(self.network(z)) + 1e-3).unbind(-1 - self._event_dim)
        return distributions.Beta(a, b).to_event(self._event_dim)


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
        check_count("levels", levels)
        self._event_dim = event_dim(network, levels, "one logit for each level")
        self.network = network
        self.levels = levels

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self.network(z).movedim(-1 - self._event_dim, -1)
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
        check_count("levels", levels)
        check_count("components", components)
        if levels < 2:
            raise ValueError(f"levels: got {levels}, expected 2 or more")
        count = 2 if components == 1 else 3 * components
        self._event_dim = event_dim(network, count, f"the parameters of {components} logistics")
        self.network = network
        self.levels = levels
        self.components = components

    def forward(self, z: Tensor) -> dist.Distribution:
        numbers = self.network(z).movedim(-1 - self._event_dim, -1)
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

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Poisson(self.network(z).exp() + 1e-4).to_event(self._event_dim)


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

    def forward(self, z: Tensor) -> dist.Distribution:
        log_mean, raw_r = self.network(z).unbind(-1 - self._event_dim)
        r = F.softplus(raw_r) + 1e-4
        pixels = distributions.NegativeBinomial(r, logits=log_mean - r.log())
        return pixels.to_event(self._event_dim)
