"""Priors p(z): modules whose ``forward()`` returns a distribution over z.

The distribution has ``batch_shape ()`` and ``event_shape (z_dim,)``. Any module with such a
``forward`` can be used as a prior.
"""

import copy
import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.distributions import flows
from pyro_vae.one_hot import OneHotPrior as OneHotCategorical
from pyro_vae.utils.checks import (
    check_bounds,
    check_count,
    check_df,
    check_interval,
    check_module,
    plain,
)
from pyro_vae.utils.shapes import as_shape

__all__ = [
    "SCALE_FLOOR",
    "Flow",
    "GaussianMixture",
    "Laplace",
    "OneHotCategorical",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "VampPrior",
]


def __dir__() -> list[str]:
    return __all__


SCALE_FLOOR = 1e-4
"""The smallest scale of a trained prior, equal to that of a posterior."""


class _Standard(nn.Module):
    """A prior with location 0 and scale 1 in each dimension."""

    loc: Tensor
    scale: Tensor

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        # Constants, which follow device and dtype but need not be saved.
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)
        self.register_buffer("scale", torch.ones(z_dim), persistent=False)

    def extra_repr(self) -> str:
        return f"z_dim={len(self.loc)}"


class StandardNormal(_Standard):
    r"""The standard normal, :math:`p(z) = \prod_j \mathcal{N}(z_j; 0, 1)`.

    Source: Kingma and Welling (2014), section 3.

    Arguments:
        z_dim: Number of latent dimensions.

    Raises:
        ValueError: `z_dim` is not a positive integer.

    Example:
        >>> prior = priors.StandardNormal(20)
        >>> prior().sample((7,)).shape
        torch.Size([7, 20])
    """

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Uniform(nn.Module):
    r"""A uniform on a box, :math:`p(z) = \prod_j \mathcal{U}(z_j; a, b)`.

    The posterior must have the same support: use ``posteriors.Squashed(posterior, low, high)``.

    Source: the lecture, "latent variable model".

    Arguments:
        z_dim: Number of latent dimensions.
        low, high: The end points a and b of each dimension.

    Raises:
        ValueError: `z_dim` is not a positive integer, or `low` and `high` do not bound a finite
            interval in torch's default dtype.

    Example:
        >>> prior = priors.Uniform(2, low=-1.0, high=1.0)
        >>> prior().support.base_constraint
        Interval(lower_bound=tensor([-1., -1.]), upper_bound=tensor([1., 1.]))
    """

    low: Tensor
    high: Tensor

    def __init__(self, z_dim: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        check_interval(low, high)
        self.register_buffer("low", torch.full((z_dim,), float(plain(low))), persistent=False)
        self.register_buffer("high", torch.full((z_dim,), float(plain(high))), persistent=False)
        self._bounds = plain(low), plain(high)

    def forward(self) -> dist.Distribution:
        return dist.Uniform(self.low, self.high).to_event(1)

    def extra_repr(self) -> str:
        return f"z_dim={len(self.low)}, low={self._bounds[0]:g}, high={self._bounds[1]:g}"


class Laplace(_Standard):
    r"""The standard Laplace, :math:`p(z) = \prod_j \tfrac12 e^{-|z_j|}`.

    Arguments:
        z_dim: Number of latent dimensions.

    Raises:
        ValueError: `z_dim` is not a positive integer.

    Example:
        >>> prior = priors.Laplace(20)
        >>> prior().log_prob(torch.zeros(7, 20)).shape
        torch.Size([7])
    """

    def forward(self) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(_Standard):
    r"""Independent Student t, :math:`p(z) = \prod_j t_\nu(z_j)`, with heavier tails than a normal.

    Arguments:
        z_dim: Number of latent dimensions.
        df: Degrees of freedom :math:`\nu`, fixed, at most 1000; above that, use a normal.

    Raises:
        TypeError: `df` is not a number.
        ValueError: `z_dim` is not a positive integer, or `df` is out of range.

    Example:
        >>> prior = priors.StudentT(20, df=4)
        >>> prior().log_prob(torch.zeros(7, 20)).shape
        torch.Size([7])
    """

    def __init__(self, z_dim: int, df: float) -> None:
        super().__init__(z_dim)
        check_df(df)
        self.df = plain(df)

    def forward(self) -> dist.Distribution:
        return distributions.StudentT(
            torch.full_like(self.loc, self.df), self.loc, self.scale
        ).to_event(1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, df={self.df:g}"


class GaussianMixture(nn.Module):
    r"""A trained mixture, :math:`p(z) = \sum_k w_k \mathcal{N}(z; \mu_k, diag(\sigma_k^2))`.

    With full covariance, the components are :math:`\mathcal{N}(z; \mu_k, L_k L_k^\top)`, where
    :math:`\sigma_k` is the diagonal of the lower triangular :math:`L_k`. It starts near the
    standard normal: with equal weights, means drawn from :math:`\mathcal{N}(0, 1/2)`, and
    variances of 1/2. The scales are :math:`\sigma = \mathrm{softplus}(s) + 10^{-4}`.

    Source: the baseline of Tomczak and Welling (2018), arXiv 1705.07120, section 3.

    Arguments:
        z_dim: Number of latent dimensions.
        components: Number of components K.
        covariance: ``"diagonal"`` or ``"full"``.

    Raises:
        ValueError: `z_dim` or `components` is not a positive integer, or `covariance` is another
            word.

    Example:
        >>> prior = priors.GaussianMixture(20, components=10)
        >>> prior().sample((7,)).shape
        torch.Size([7, 20])
    """

    below: nn.Parameter | None

    def __init__(
        self,
        z_dim: int,
        components: int,
        covariance: Literal["diagonal", "full"] = "diagonal",
    ) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        check_count("components", components)
        if covariance not in ("diagonal", "full"):
            raise ValueError(f"covariance: got {covariance!r}, expected 'diagonal' or 'full'")
        start = math.log(math.expm1(math.sqrt(0.5) - SCALE_FLOOR))
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, z_dim) * math.sqrt(0.5))
        self.raw_scale = nn.Parameter(torch.full((components, z_dim), start))
        below = torch.zeros(components, z_dim * (z_dim - 1) // 2)
        self.below = nn.Parameter(below) if covariance == "full" else None

    def forward(self) -> dist.Distribution:
        scale = F.softplus(self.raw_scale) + SCALE_FLOOR
        if self.below is None:
            return distributions.NormalMixture(self.logits, self.loc, scale)
        tril = distributions.lower_triangular(scale, self.below)
        return distributions.Mixture(
            dist.Categorical(logits=self.logits),
            dist.MultivariateNormal(self.loc, scale_tril=tril),
        )

    def extra_repr(self) -> str:
        components, z_dim = self.loc.shape
        covariance = "diagonal" if self.below is None else "full"
        return f"z_dim={z_dim}, components={components}, covariance={covariance}"


class VampPrior(nn.Module):
    r"""The average posterior of trained pseudo-inputs, :math:`p(z) = \frac1K \sum_k q(z | u_k)`.

    The posterior is that of the VAE, which shares its parameters with this prior. The
    pseudo-inputs are trained as :math:`(u - low) / (high - low)` where the range is finite, so
    that an optimizer's step covers the same fraction of any range.

    An untrained encoder gives all :math:`u_k` the same posterior, and training may stay there: the
    KL is then zero (on MNIST, it was after 14 epochs). Train some epochs with a ``StandardNormal``
    first, and build a VAE with this prior from the trained parts; the source warms up the KL.

    Source: Tomczak and Welling (2018), arXiv 1705.07120, section 2.

    Arguments:
        posterior: The posterior of the VAE; not a flow, which takes ``z_dim`` passes to score.
        pseudo_inputs: Initial values of :math:`u_k`, shape ``(K, *x_shape)``, such as training
            examples.
        low, high: The range of x; pseudo-inputs stay inside.

    Raises:
        TypeError: `posterior` is not a module that returns a distribution, or `pseudo_inputs` is
            not a floating-point tensor.
        ValueError: `pseudo_inputs` are out of the range or do not fit the posterior, or the
            posterior is a flow.

    Example:
        >>> posterior = posteriors.Normal(networks.MLP(784, (500,), 2 * 20))
        >>> prior = priors.VampPrior(posterior, torch.rand(500, 784))
        >>> prior().log_prob(torch.zeros(7, 20)).shape
        torch.Size([7])
    """

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: Tensor,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        check_module("posterior", posterior)
        if any(isinstance(m, flows.InverseAutoregressive) for m in posterior.modules()):
            raise ValueError(
                "posterior: got a flow, expected a posterior that scores any z in one pass, such "
                "as posteriors.Normal: with a flow, the average would take K * z_dim passes"
            )
        if not isinstance(pseudo_inputs, Tensor) or not pseudo_inputs.is_floating_point():
            kind = getattr(pseudo_inputs, "dtype", type(pseudo_inputs).__name__)
            raise TypeError(f"pseudo_inputs: got {kind}, expected a floating-point tensor")
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(
                f"pseudo_inputs: got shape {tuple(pseudo_inputs.shape)}, expected (K, *x_shape)"
            )
        check_bounds(low, high)
        low, high = plain(low), plain(high)
        least, greatest = pseudo_inputs.aminmax()
        if not least.new_tensor(low) <= least <= greatest <= least.new_tensor(high):
            raise ValueError(
                f"pseudo_inputs: got values from {least.item():g} to {greatest.item():g}, "
                f"expected the range of x, from low={low:g} to high={high:g}"
            )
        try:
            with torch.no_grad():
                components = copy.deepcopy(posterior).eval()(pseudo_inputs)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"pseudo_inputs: got shape {tuple(pseudo_inputs.shape)}, expected examples that "
                f"the posterior accepts: {error}"
            ) from error
        if not isinstance(components, TorchDistributionMixin):
            raise TypeError(
                f"posterior: its forward gave a {type(components).__name__}, expected a "
                "distribution of pyro.distributions"
            )
        batch_shape = components.batch_shape
        if batch_shape != pseudo_inputs.shape[:1]:
            raise ValueError(
                f"pseudo_inputs: got shape {tuple(pseudo_inputs.shape)}, for which the posterior "
                f"has batch_shape {tuple(batch_shape)}, expected ({len(pseudo_inputs)},): one "
                "posterior for each"
            )
        self.posterior = posterior
        self.low, self.high = low, high
        self._finite = math.isfinite(low) and math.isfinite(high)
        start = pseudo_inputs.detach().clone()
        self.raw = nn.Parameter((start - low) / (high - low) if self._finite else start)

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, shape ``(K, *x_shape)``, inside the range of x."""
        if not self._finite:
            return distributions.clamp_inwards(self.raw, self.low, self.high)
        low, high = self.raw.new_tensor(self.low), self.raw.new_tensor(self.high)
        return torch.lerp(low, high, distributions.clamp_inwards(self.raw, 0.0, 1.0))

    def forward(self) -> dist.Distribution:
        components = self.posterior(self.pseudo_inputs)
        logits = self.raw.new_zeros(len(self.raw))
        base = getattr(components, "base_dist", None)
        if isinstance(base, dist.Normal) and len(components.event_shape) == 1:
            return distributions.NormalMixture(logits, base.loc, base.scale)
        return distributions.Mixture(dist.Categorical(logits=logits), components)

    def extra_repr(self) -> str:
        return f"pseudo_inputs={tuple(self.raw.shape)}, low={self.low}, high={self.high}"


class Flow(nn.Module):
    r"""A neural spline flow, :math:`p(z) = \mathcal{N}(f(z); 0, I)\,|\det \partial f/\partial z|`.

    Scoring takes one pass, drawing ``z_dim`` passes. The splines act on [-5, 5]; beyond, the tails
    are those of a normal. Requires Zuko: ``pip install 'pyro_vae[flows]'``.

    Source: Durkan et al. (2019), arXiv 1906.04032; as a prior: Chen et al. (2017), arXiv
    1611.02731.

    Arguments:
        z_dim: Number of latent dimensions.
        transforms: Number of autoregressive transforms.
        hidden: Widths of the hidden layers of each transform's network.

    Raises:
        ValueError: `z_dim`, `transforms` or a width is not a positive integer.
        ModuleNotFoundError: Zuko is not installed.

    Example:
        >>> prior = priors.Flow(2, transforms=3)
        >>> prior().log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def __init__(
        self, z_dim: int, transforms: int = 3, hidden: Sequence[int] = (128, 128)
    ) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        check_count("transforms", transforms)
        self.flow = flows.spline(z_dim, transforms, as_shape("hidden", hidden))

    def forward(self) -> dist.Distribution:
        return flows.FromZuko(self.flow())
