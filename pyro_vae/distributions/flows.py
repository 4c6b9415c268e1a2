"""Zuko's normalizing flows as Pyro distributions.

Zuko is an optional dependency: ``pip install 'pyro_vae[flows]'``.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.compat import changes
from pyro_vae.distributions.versions import is_unchanged
from pyro_vae.utils.checks import check_count, kind
from pyro_vae.utils.extras import extra
from pyro_vae.utils.shapes import as_shape

__all__ = ["FromZuko", "InverseAutoregressive", "spline"]


def __dir__() -> list[str]:
    return __all__


class FromZuko(dist.TorchDistribution):
    """A Zuko distribution, such as a normalizing flow, as a Pyro distribution.

    Where Zuko computes the log-density with the draw, in the same pass, it is stored until the
    draw is freed. So an inverse autoregressive flow scores its own draws as fast as it draws them;
    any other value takes ``z_dim`` passes. A stored log-density is differentiable with respect to
    the parameters only: for its partial derivative with respect to z, score ``z.clone()``.

    Source: Kingma et al. (2016), arXiv 1606.04934, section 3, on the density of a flow's draws.

    Arguments:
        flow: A Zuko distribution, that is, what a Zuko flow returns when called.
        support: Its support.

    Raises:
        TypeError: `flow` is not a distribution.

    Example:
        >>> import zuko
        >>> p_z = flows.FromZuko(zuko.flows.NSF(3)())
        >>> p_z.log_prob(p_z.sample((7,))).shape
        torch.Size([7])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        flow: Distribution,
        support: constraints.Constraint = constraints.real_vector,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(flow, Distribution):
            raise TypeError(
                f"flow: got {kind(flow)}, expected a Zuko distribution: what a Zuko flow returns "
                "when called"
            )
        self.flow = flow
        self._support = support
        self._last: tuple[weakref.ref[Tensor], int, bool, Tensor] | None = None
        super().__init__(flow.batch_shape, flow.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return self.flow.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        return self._support

    @property
    def mean(self) -> Tensor:
        return self.flow.mean

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        draw = getattr(self.flow, "rsample_and_log_prob", None)
        if draw is None:
            return self.flow.rsample(torch.Size(sample_shape))
        z, log_prob = draw(torch.Size(sample_shape))
        self._last = weakref.ref(z), changes(z), torch.is_grad_enabled(), log_prob
        return z

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            if self.has_rsample:
                return self.rsample(sample_shape)
            return self.flow.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._last is not None:
            z, count, with_gradients, log_prob = self._last
            # A log-density from a draw without gradients has none to give.
            enough = with_gradients or not torch.is_grad_enabled()
            if z() is value and is_unchanged(value, count) and enough:
                return log_prob
        return self.flow.log_prob(value)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_last": None}

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FromZuko":
        new = self._get_checked_instance(FromZuko, _instance)
        new.flow = self.flow.expand(torch.Size(batch_shape))
        new._support = self._support
        new._last = None
        super(FromZuko, new).__init__(new.flow.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


def spline(z_dim: int, transforms: int, hidden: Sequence[int]) -> nn.Module:
    """A neural spline flow: scoring takes one pass, drawing ``z_dim`` passes.

    It is autoregressive, with eight bins on [-5, 5], and starts as the identity. Called without
    arguments, it returns a Zuko distribution.

    Source: Durkan et al. (2019), arXiv 1906.04032.

    Arguments:
        z_dim: Number of latent dimensions.
        transforms: Number of autoregressive transforms.
        hidden: Widths of the hidden layers of each transform's network.

    Raises:
        ValueError: A number or a width is not a positive integer.
        ModuleNotFoundError: Zuko is not installed.

    Example:
        >>> flow = flows.spline(2, transforms=3, hidden=(32, 32))
        >>> flows.FromZuko(flow()).sample((7,)).shape
        torch.Size([7, 2])
    """
    check_count("z_dim", z_dim)
    check_count("transforms", transforms)
    widths = as_shape("hidden", hidden)
    with _zuko() as zuko:
        flow = zuko.flows.NSF(z_dim, transforms=transforms, hidden_features=tuple(widths))
    return _start_as_identity(flow)


class InverseAutoregressive(nn.Module):
    r"""Affine autoregressive steps from noise to z: drawing takes one pass.

    From :math:`z_0 \sim \mathcal{N}(\mu, \sigma^2)`, each step is :math:`z_j \leftarrow s_j z_j +
    m_j`. A masked network gives :math:`m_j` and :math:`s_j` from the context and from the
    coordinates before :math:`z_j`, in every second step from those after it. The steps start as
    the identity.

    Source: Kingma et al. (2016), arXiv 1606.04934, section 3 and algorithm 1.

    Arguments:
        z_dim: Number of latent dimensions.
        context: Size of the context.
        transforms: Number of steps.
        hidden: Widths of the hidden layers of the masked networks.

    Raises:
        ValueError: A number or a width is not a positive integer.
        ModuleNotFoundError: Zuko is not installed.

    Example:
        >>> flow = flows.InverseAutoregressive(2, context=5, transforms=2, hidden=(32,))
        >>> q_z = flow(torch.zeros(7, 2), torch.ones(7, 2), torch.randn(7, 5))
        >>> q_z.log_prob(q_z.rsample()).shape
        torch.Size([7])
    """

    def __init__(self, z_dim: int, context: int, transforms: int, hidden: Sequence[int]) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        check_count("context", context)
        check_count("transforms", transforms)
        widths = as_shape("hidden", hidden)
        forwards = torch.arange(z_dim)
        with _zuko() as zuko:
            self.steps = zuko.lazy.LazyComposedTransform(
                *(
                    zuko.flows.MaskedAutoregressiveTransform(
                        z_dim,
                        context,
                        order=forwards.flip(0) if i % 2 else forwards,
                        hidden_features=tuple(widths),
                    )
                    for i in range(transforms)
                )
            )
        _start_as_identity(self.steps)

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> FromZuko:
        with _zuko() as zuko:
            to_noise = self.steps(context).inv
            return FromZuko(zuko.distributions.NormalizingFlow(to_noise, dist.Normal(loc, scale)))


def _start_as_identity(flow: nn.Module) -> nn.Module:
    """Sets the layers that give each transform's parameters to zero: it changes nothing yet."""
    with torch.no_grad():
        for module in flow.modules():
            if hasattr(module, "hyper"):
                last: Any = module.hyper[-1]  # type: ignore[index]
                last.weight.zero_()
                last.bias.zero_()
            for parameter in getattr(module, "phi", ()):
                parameter.zero_()
    return flow


@contextmanager
def _zuko() -> Iterator[Any]:
    """Imports Zuko, and undoes that its import disables torch's validation of arguments."""
    validates = Distribution._validate_args
    try:
        with extra("flows", {"zuko": "zuko"}, "flows"):
            import zuko
    finally:
        Distribution.set_default_validate_args(validates)
    yield zuko
