"""Posteriors q(z|x): modules whose ``forward(x)`` returns a distribution over z.

For x of shape ``(*batch, *x_shape)``, the distribution has ``batch_shape batch`` and ``event_shape
(z_dim,)``. Any module with such a ``forward`` can be used as a posterior. The network of a
posterior gives all parameters of the distribution in one vector for each x.
"""

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.distributions import flows
from pyro_vae.one_hot import OneHotPosterior as OneHotCategorical
from pyro_vae.utils.checks import check_count, check_interval, check_module, plain
from pyro_vae.utils.context import given, takes_context
from pyro_vae.utils.shapes import as_shape, out_shape

__all__ = [
    "SCALE_FLOOR",
    "Flow",
    "LowRankNormal",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "OneHotCategorical",
    "Squashed",
]


def __dir__() -> list[str]:
    return __all__


SCALE_FLOOR = 1e-4
"""The smallest scale of a posterior.

With a smaller one, float32 would not resolve how far a draw near 1 lies from the mean.
"""


class Normal(nn.Module):
    r"""A normal with diagonal covariance, :math:`q(z|x) = \mathcal{N}(z; \mu, diag(\sigma^2))`.

    The network gives means and raw scales: :math:`\mu_j = f_j(x)`,
    :math:`\sigma_j = \mathrm{softplus}(f_{J+j}(x)) + 10^{-4}`.

    Source: Kingma and Welling (2014), section 3 and appendix C.2.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to shape ``(*batch, 2 * z_dim)``.

    Raises:
        TypeError: `network` is not a module.
        ValueError: The network gives an odd number of numbers. This is checked in ``forward``, and
            before if the network has an ``out_shape``.

    Example:
        >>> posterior = posteriors.Normal(networks.MLP((28, 28), (500,), 2 * 20))
        >>> posterior(torch.rand(7, 28, 28)).rsample().shape
        torch.Size([7, 20])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        _check_network(network, self._split)

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        loc, raw_scale = self._split(given(self.network, x, context))
        return dist.Normal(loc, _scale(raw_scale)).to_event(1)

    def _split(self, numbers: Tensor) -> Sequence[Tensor]:
        _check_numbers(numbers, 2, "2 * z_dim: a mean and a raw scale for each latent dimension")
        return numbers.chunk(2, dim=-1)


class LowRankNormal(nn.Module):
    r"""A normal of covariance :math:`W W^\top + diag(\sigma^2)`, W of shape ``(z_dim, rank)``.

    The network gives means, raw scales (as for :class:`Normal`), then the rows of
    :math:`\sqrt{r}\,W`. The root of the rank r keeps the covariance of an untrained network from
    growing with r.

    Source: Rezende, Mohamed and Wierstra (2014), arXiv 1401.4082, section 4.3, where the precision
    has this form, with rank 1.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to ``(*batch, (2 + rank) * z_dim)``.
        rank: Number of columns of W.

    Raises:
        TypeError: `network` is not a module.
        ValueError: `rank` is not a positive integer, or the network does not give
            ``(2 + rank) * z_dim`` numbers (checked as for :class:`Normal`).

    Example:
        >>> network = networks.MLP((28, 28), (500,), (2 + 3) * 20)
        >>> posterior = posteriors.LowRankNormal(network, rank=3)
        >>> posterior(torch.rand(7, 28, 28)).rsample().shape
        torch.Size([7, 20])
    """

    def __init__(self, network: nn.Module, rank: int) -> None:
        super().__init__()
        check_count("rank", rank)
        self.network = network
        self.rank = rank
        _check_network(network, self._split)

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        loc, raw_scale, factor = self._split(given(self.network, x, context))
        factor = factor.unflatten(-1, (-1, self.rank)) / math.sqrt(self.rank)
        return distributions.LowRankNormal(loc, factor, _scale(raw_scale).square())

    def _split(self, numbers: Tensor) -> Sequence[Tensor]:
        parts = 2 + self.rank
        _check_numbers(numbers, parts, f"{parts} * z_dim: mean, raw scale, {self.rank} factors")
        z_dim = numbers.shape[-1] // parts
        return numbers.split((z_dim, z_dim, self.rank * z_dim), -1)

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


class MultivariateNormal(nn.Module):
    r"""A normal of full covariance, :math:`q(z|x) = \mathcal{N}(z; \mu, L L^\top)`.

    The network gives means, raw scales for the diagonal of L (as for :class:`Normal`), then the
    rows of L below the diagonal.

    Source: Kingma and Welling (2019), arXiv 1906.02691, section 2.5.1.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to
            ``(*batch, z_dim * (z_dim + 3) / 2)``.

    Raises:
        TypeError: `network` is not a module.
        ValueError: The network does not give ``z_dim * (z_dim + 3) / 2`` numbers (checked as for
            :class:`Normal`).

    Example:
        >>> network = networks.MLP((28, 28), (500,), 20 * (20 + 3) // 2)
        >>> posterior = posteriors.MultivariateNormal(network)
        >>> posterior(torch.rand(7, 28, 28)).rsample().shape
        torch.Size([7, 20])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        _check_network(network, self._split)

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        loc, raw_scale, below = self._split(given(self.network, x, context))
        tril = distributions.lower_triangular(_scale(raw_scale), below)
        return dist.MultivariateNormal(loc, scale_tril=tril)

    def _split(self, numbers: Tensor) -> Sequence[Tensor]:
        count = numbers.shape[-1]
        z_dim = (math.isqrt(9 + 8 * count) - 3) // 2
        if z_dim < 1 or z_dim * (z_dim + 3) != 2 * count:
            raise ValueError(
                f"network: gave {count} numbers, expected z_dim * (z_dim + 3) / 2: 2, 5, 9, 14, "
                "... for 1, 2, 3, 4 latent dimensions"
            )
        return numbers.split((z_dim, z_dim, count - 2 * z_dim), -1)


class Mixture(nn.Module):
    r"""A mixture of diagonal normals, :math:`\sum_k w_k \mathcal{N}(z; \mu_k, diag(\sigma_k^2))`.

    For each component, the network gives the logit of its weight, then means and raw scales (as
    for :class:`Normal`). Draws have implicit gradients, which are unbiased and reach the weights.

    Source: Figurnov, Mohamed and Mnih (2018), arXiv 1805.08498, section 3.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to
            ``(*batch, components * (1 + 2 * z_dim))``.
        components: Number of components.

    Raises:
        TypeError: `network` is not a module.
        ValueError: `components` is not a positive integer, or the network does not give
            ``components * (1 + 2 * z_dim)`` numbers (checked as for :class:`Normal`).

    Example:
        >>> network = networks.MLP((28, 28), (500,), 5 * (1 + 2 * 20))
        >>> posterior = posteriors.Mixture(network, components=5)
        >>> posterior(torch.rand(7, 28, 28)).rsample().shape
        torch.Size([7, 20])
    """

    def __init__(self, network: nn.Module, components: int) -> None:
        super().__init__()
        check_count("components", components)
        self.network = network
        self.components = components
        _check_network(network, self._split)

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        logits, loc, raw_scale = self._split(given(self.network, x, context))
        return distributions.NormalMixture(logits, loc, _scale(raw_scale))

    def _split(self, numbers: Tensor) -> Sequence[Tensor]:
        each, rest = divmod(numbers.shape[-1], self.components)
        if rest or each < 3 or each % 2 == 0:
            raise ValueError(
                f"network: gave {numbers.shape[-1]} numbers, expected {self.components} * (1 + 2 "
                "* z_dim): for each component a logit, means and raw scales"
            )
        numbers = numbers.unflatten(-1, (self.components, each))
        return numbers[..., 0], *numbers[..., 1:].chunk(2, dim=-1)

    def extra_repr(self) -> str:
        return f"components={self.components}"


class Flow(nn.Module):
    r"""An inverse autoregressive flow from :math:`\mathcal{N}(\mu, diag(\sigma^2))` to z.

    The network gives means and raw scales (as for :class:`Normal`), then a context on which the
    autoregressive steps depend. Drawing takes one pass, which also gives the log-density of the
    draw. Scoring any other z takes ``z_dim`` passes. Requires Zuko: ``pip install
    'pyro_vae[flows]'``.

    Source: Kingma et al. (2016), arXiv 1606.04934, section 3.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to ``(*batch, 2 * z_dim + context)``; it
            must have an ``out_shape``.
        z_dim: Number of latent dimensions.
        transforms: Number of steps.
        hidden: Widths of the hidden layers of each step's network.

    Raises:
        TypeError: `network` has no ``out_shape``.
        ValueError: `z_dim`, `transforms` or a width is not a positive integer, or the network
            gives no context.
        ModuleNotFoundError: Zuko is not installed.

    Example:
        >>> network = networks.MLP((28, 28), (500,), 2 * 20 + 100)
        >>> posterior = posteriors.Flow(network, z_dim=20)
        >>> posterior(torch.rand(7, 28, 28)).rsample().shape
        torch.Size([7, 20])
    """

    def __init__(
        self,
        network: nn.Module,
        z_dim: int,
        transforms: int = 2,
        hidden: Sequence[int] = (128, 128),
    ) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        check_count("transforms", transforms)
        shape = out_shape(network)
        if len(shape) != 1 or shape[0] <= 2 * z_dim:
            raise ValueError(
                f"network: got out_shape {tuple(shape)}, expected more than 2 * z_dim = "
                f"{2 * z_dim} numbers: means, raw scales, and a context for the flow"
            )
        self.network = network
        self.z_dim = z_dim
        self.flow = flows.InverseAutoregressive(
            z_dim, shape[0] - 2 * z_dim, transforms, as_shape("hidden", hidden)
        )

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        numbers = given(self.network, x, context)
        loc, raw_scale, context = numbers.split(
            (self.z_dim, self.z_dim, numbers.shape[-1] - 2 * self.z_dim), -1
        )
        return self.flow(loc, _scale(raw_scale), context)


class Squashed(nn.Module):
    r"""A posterior on a box, :math:`z = a + (b - a)\,\sigma(y)` with :math:`y \sim q(y|x)`.

    It fits priors on that box, such as ``priors.Uniform``. The log-density of a draw is computed
    from the y that it came from, and differentiated through y. For the partial derivative with
    respect to z, score ``z.clone()``.

    Source: Kucukelbir et al. (2017), arXiv 1603.00788, section 2.3.

    Arguments:
        posterior: A posterior whose support is all real vectors.
        low, high: The end points a and b of each dimension.

    Raises:
        TypeError: `posterior` is not a module.
        ValueError: `low` and `high` do not bound a finite interval; in ``forward``, the support of
            the posterior is not all real vectors.

    Example:
        >>> normal = posteriors.Normal(networks.MLP((28, 28), (500,), 2 * 20))
        >>> posterior = posteriors.Squashed(normal, low=-1.0, high=1.0)
        >>> bool(posterior(torch.rand(7, 28, 28)).rsample().abs().max() < 1)
        True
    """

    low: Tensor
    high: Tensor

    def __init__(self, posterior: nn.Module, low: float, high: float) -> None:
        super().__init__()
        check_module("posterior", posterior)
        check_interval(low, high)
        self.posterior = posterior
        self.register_buffer("low", torch.tensor(float(plain(low))), persistent=False)
        self.register_buffer("high", torch.tensor(float(plain(high))), persistent=False)
        self._bounds = plain(low), plain(high)

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        q_y = self.posterior(x, *context) if takes_context(self.posterior) else self.posterior(x)
        support = distributions.support_of(q_y)
        if not distributions.is_real(support):
            raise ValueError(
                f"posterior: its support is {distributions.describe_support(support)}, expected "
                "all reals: from another support, Squashed would not reach all of the box"
            )
        return dist.TransformedDistribution(q_y, [distributions.OntoInterval(self.low, self.high)])

    def extra_repr(self) -> str:
        return f"low={self._bounds[0]:g}, high={self._bounds[1]:g}"


def _scale(raw: Tensor) -> Tensor:
    return F.softplus(raw) + SCALE_FLOOR


def _check_network(network: nn.Module, split: Callable[[Tensor], object]) -> None:
    """Checks that a network is a module, and that its ``out_shape``, if any, can be split."""
    check_module("network", network)
    if not hasattr(network, "out_shape"):
        return
    shape = out_shape(network)
    if len(shape) != 1:
        raise ValueError(
            f"network: got out_shape {tuple(shape)}, expected one dimension for all numbers"
        )
    split(torch.empty(shape, device="meta"))


def _check_numbers(numbers: Tensor, parts: int, expected: str) -> None:
    if not numbers.shape[-1] or numbers.shape[-1] % parts:
        raise ValueError(f"network: gave {numbers.shape[-1]} numbers, expected {expected}")
