"""Priors p(z): modules whose ``forward()`` returns a distribution over z.

It has ``batch_shape ()`` and ``event_shape (z_dim,)``. Any module with such a ``forward`` serves.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.distributions import flows
from pyro_vae.utils.checks import (
    check_bounds,
    check_count,
    check_df,
    check_interval,
    check_module,
)
from pyro_vae.utils.shapes import as_shape

SCALE_FLOOR = 1e-4
"""Least scale that a trained prior can take, as of a posterior."""


class _Standard(nn.Module):
    """Locations 0 and scales 1 in each dimension."""

    loc: Tensor
    scale: Tensor

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        # Constants of the class, not state to be saved: they only follow device and dtype.
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
        ValueError: `z_dim` is no whole number from 1 up.
    """

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Uniform(nn.Module):
    r"""A uniform box, :math:`p(z) = \prod_j \mathcal{U}(z_j; a, b)`.

    Its posterior must live on the box: ``posteriors.Squashed(posterior, low, high)``.

    Source: the lecture, "latent variable model".

    Arguments:
        z_dim: Number of latent dimensions.
        low, high: The ends a and b of each dimension.

    Raises:
        ValueError: `z_dim` is no whole number from 1 up, or `low` and `high` are no ends of an
            interval in torch's default dtype.
    """

    low: Tensor
    high: Tensor

    def __init__(self, z_dim: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        check_interval(low, high)
        self.register_buffer("low", torch.full((z_dim,), float(low)), persistent=False)
        self.register_buffer("high", torch.full((z_dim,), float(high)), persistent=False)
        self._bounds = low, high

    def forward(self) -> dist.Distribution:
        return dist.Uniform(self.low, self.high).to_event(1)

    def extra_repr(self) -> str:
        return f"z_dim={len(self.low)}, low={self._bounds[0]:g}, high={self._bounds[1]:g}"


class Laplace(_Standard):
    r"""The standard Laplace, :math:`p(z) = \prod_j \tfrac12 e^{-|z_j|}`.

    Arguments:
        z_dim: Number of latent dimensions.

    Raises:
        ValueError: `z_dim` is no whole number from 1 up.
    """

    def forward(self) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StudentT(_Standard):
    r"""Independent Student t, :math:`p(z) = \prod_j t_\nu(z_j)`, of heavier tails than a normal.

    Arguments:
        z_dim: Number of latent dimensions.
        df: Degrees of freedom :math:`\nu`, fixed, at most 1,000: beyond, float32 loses digits,
            and a normal is as good.

    Raises:
        ValueError: `z_dim` is no whole number from 1 up, or `df` is out of range.
    """

    def __init__(self, z_dim: int, df: float) -> None:
        super().__init__(z_dim)
        check_df(df)
        self.df = df

    def forward(self) -> dist.Distribution:
        return distributions.StudentT(
            torch.full_like(self.loc, self.df), self.loc, self.scale
        ).to_event(1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, df={self.df:g}"


class GaussianMixture(nn.Module):
    r"""A trained mixture, :math:`p(z) = \sum_k w_k \mathcal{N}(z; \mu_k, diag(\sigma_k^2))`.

    It starts with equal weights, means drawn from :math:`\mathcal{N}(0, 1/2)` and variances of
    1/2, so near the standard normal; :math:`\sigma = \mathrm{softplus}(s) + 10^{-4}`.

    Source: the baseline of Tomczak and Welling (2018), arXiv 1705.07120, section 3.

    Arguments:
        z_dim: Number of latent dimensions.
        components: Number of components K.

    Raises:
        ValueError: `z_dim` or `components` is no whole number from 1 up.
    """

    def __init__(self, z_dim: int, components: int) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        check_count("components", components)
        start = math.log(math.expm1(math.sqrt(0.5) - SCALE_FLOOR))
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, z_dim) * math.sqrt(0.5))
        self.raw_scale = nn.Parameter(torch.full((components, z_dim), start))

    def forward(self) -> dist.Distribution:
        return distributions.NormalMixture(self.logits, self.loc, F.softplus(self.raw_scale) + SCALE_FLOOR)

    def extra_repr(self) -> str:
        components, z_dim = self.loc.shape
        return f"z_dim={z_dim}, components={components}"


class VampPrior(nn.Module):
    r"""The average posterior of trained pseudo-inputs, :math:`p(z) = \frac1K \sum_k q(z | u_k)`.

    The posterior is the VAE's own, shared and trained by both. The parameter is
    :math:`(u - low) / (high - low)` where the range is finite, so that a step of an optimizer is
    the same part of any range. Over diagonal normals it scores by matrix products. With random
    weights all posteriors are alike, the KL is zero, and little makes them differ (on MNIST
    nothing did in 14 epochs): train some epochs with a ``StandardNormal`` first, then make the VAE
    again with this prior; the source warms up the KL.

    Source: Tomczak and Welling (2018), arXiv 1705.07120, section 2.

    Arguments:
        posterior: The posterior of the VAE; no flow, which cannot score others' draws fast.
        pseudo_inputs: Where :math:`u_k` start, shape ``(K, *x_shape)``: training examples, say.
        low, high: The range of x, in which they are kept.

    Raises:
        TypeError: `posterior` is no module that gives a distribution, or `pseudo_inputs` no
            floating-point tensor.
        ValueError: `pseudo_inputs` are outside of the range, or do not fit the posterior; the
            posterior is a flow.
    """

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: Tensor,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(posterior, nn.Module):
            raise TypeError(
                f"posterior: got a {type(posterior).__name__}, expected the VAE's posterior, a "
                "torch.nn.Module"
            )
        if any(isinstance(m, flows.InverseAutoregressive) for m in posterior.modules()):
            raise ValueError(
                "posterior: got a flow, expected one that scores any z at once, Normal for "
                "instance: the average over K posteriors would take K * z_dim passes"
            )
        if not isinstance(pseudo_inputs, Tensor) or not pseudo_inputs.is_floating_point():
            kind = getattr(pseudo_inputs, "dtype", type(pseudo_inputs).__name__)
            raise TypeError(f"pseudo_inputs: got {kind}, expected a floating-point tensor")
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(
                f"pseudo_inputs: got shape {tuple(pseudo_inputs.shape)}, expected (K, *x_shape)"
            )
        check_bounds(low, high)
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
                f"pseudo_inputs: the posterior does not take them: {error}"
            ) from error
        if not isinstance(components, TorchDistributionMixin):
            raise TypeError(
                f"posterior: its forward gave a {type(components).__name__}, expected a "
                "distribution of pyro.distributions"
            )
        batch_shape = components.batch_shape
        if batch_shape != pseudo_inputs.shape[:1]:
            raise ValueError(
                f"pseudo_inputs: got shape {tuple(pseudo_inputs.shape)}, of which the posterior "
                f"makes batch_shape {tuple(batch_shape)}, expected ({len(pseudo_inputs)},): one "
                "posterior for each"
            )
        self.posterior = posterior
        self.low, self.high = low, high
        self._finite = math.isfinite(low) and math.isfinite(high)
        start = pseudo_inputs.detach().clone()
        self.raw = nn.Parameter((start - low) / (high - low) if self._finite else start)

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, shape ``(K, *x_shape)``, inside of the range of x."""
        if not self._finite:
            return _Kept.apply(self.raw, self.low, self.high)
        low, high = self.raw.new_tensor(self.low), self.raw.new_tensor(self.high)
        return torch.lerp(low, high, _Kept.apply(self.raw, 0.0, 1.0))

    def forward(self) -> dist.Distribution:
        components = self.posterior(self.pseudo_inputs)
        logits = self.raw.new_zeros(len(self.raw))
        base = getattr(components, "base_dist", None)
        if isinstance(base, dist.Normal) and len(components.event_shape) == 1:
            return distributions.NormalMixture(logits, base.loc, base.scale)
        return distributions.Mixture(dist.Categorical(logits=logits), components)

    def extra_repr(self) -> str:
        return f"pseudo_inputs={tuple(self.raw.shape)}, low={self.low}, high={self.high}"


class _Kept(torch.autograd.Function):
    """Values kept between two ends; at an end, a gradient counts that leads back inside.

    With the gradient of a plain clamp, what has once left the range would stay out for good.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, low: float, high: float) -> Tensor:
        return value.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        value, ctx.low, ctx.high = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        outwards = (value < ctx.low) & (gradient > 0) | (value > ctx.high) & (gradient < 0)
        return gradient.masked_fill(outwards, 0.0), None, None


class Flow(nn.Module):
    r"""A neural spline flow, :math:`p(z) = \mathcal{N}(f(z); 0, I)\,|\det \partial f/\partial z|`.

    Scoring takes one pass, drawing z_dim passes. Splines act on [-5, 5], beyond it is a normal's
    tail. Needs the extra ``flows`` (Zuko).

    Source: Durkan et al. (2019), arXiv 1906.04032; as a prior: Chen et al. (2017), arXiv
    1611.02731.

    Arguments:
        z_dim: Number of latent dimensions.
        transforms: Number of autoregressive transforms.
        hidden: Widths of the hidden layers of each transform's network.

    Raises:
        ValueError: `z_dim`, `transforms` or a width is no whole number from 1 up.
        ModuleNotFoundError: Zuko is not installed.
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
