"""Normalizing flows of Zuko as Pyro distributions; the extra ``flows`` brings Zuko."""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Distribution


class FromZuko(dist.TorchDistribution):
    """A distribution of Zuko, a normalizing flow for instance, as one of Pyro.

    The log-density of a draw is computed with the draw, where Zuko can (one pass either way), and
    is kept with it, for as long as both live. So an inverse autoregressive flow scores its own
    draws as fast as it draws; any other value takes ``z_dim`` passes. The derivatives of such a
    score are those by the parameters; for the partial derivative by z, score ``z.clone()``.

    Arguments:
        flow: What calling a Zuko module gives: ``zuko.flows.NSF(3)()``.
        support: Where it has its mass.

    Source: Kingma et al. (2016), arXiv 1606.04934, section 3, on scoring a flow's own draws.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        flow: Distribution,
        support: constraints.Constraint = constraints.real_vector,
        validate_args: bool | None = None,
    ) -> None:
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
        self._last = weakref.ref(z), version(z), torch.is_grad_enabled(), log_prob
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
            z, made, with_gradients, log_prob = self._last
            # Without gradients when it was drawn, it has none for those who ask with them.
            enough = with_gradients or not torch.is_grad_enabled()
            if z() is value and is_version(value, made) and enough:
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
    """A neural spline flow, fast in scoring: called with nothing it is a Zuko distribution.

    Source: Durkan et al. (2019), arXiv 1906.04032, autoregressive, eight bins on [-5, 5].
    """
    with _zuko() as zuko:
        flow = zuko.flows.NSF(z_dim, transforms=transforms, hidden_features=tuple(hidden))
    return _start_as_identity(flow)


class InverseAutoregressive(nn.Module):
    r"""Affine autoregressive steps from noise to z, fast in drawing.

    From :math:`z_0 \sim \mathcal{N}(\mu, \sigma^2)`, each step is :math:`z_j \leftarrow s_j z_j +
    m_j`, where :math:`m_j, s_j` come from a masked network of the context and of the
    :math:`z_i` before (in every second step: behind) :math:`z_j`.

    Source: Kingma et al. (2016), arXiv 1606.04934, section 3 and algorithm 1.

    Arguments:
        z_dim: Number of latent dimensions.
        context: Size of the context.
        transforms: Number of steps.
        hidden: Widths of the masked networks' hidden layers.
    """

    def __init__(self, z_dim: int, context: int, transforms: int, hidden: Sequence[int]) -> None:
        super().__init__()
        forwards = torch.arange(z_dim)
        with _zuko() as zuko:
            self.steps = zuko.lazy.LazyComposedTransform(
                *(
                    zuko.flows.MaskedAutoregressiveTransform(
                        z_dim,
                        context,
                        order=forwards.flip(0) if i % 2 else forwards,
                        hidden_features=tuple(hidden),
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
    """Sets to zero what each transform's parameters come from, so that it changes nothing yet."""
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
    """Zuko, whose import would switch torch's validation off for the whole process."""
    validates = Distribution._validate_args
    try:
        import zuko
    except ModuleNotFoundError as error:
        if error.name != "zuko":
            raise
        raise ModuleNotFoundError(
            "flows need Zuko, which is not installed: pip install 'pyro_vae[flows]'", name="zuko"
        ) from error
    finally:
        Distribution.set_default_validate_args(validates)
    yield zuko


def version(tensor: Tensor) -> int:
    """Counts a tensor's changes in place; -1 where torch does not count them (inference mode)."""
    return -1 if tensor.is_inference() else tensor._version


def is_version(tensor: Tensor, number: int) -> bool:
    """Whether a tensor is certain not to have changed since its version had this number."""
    return number >= 0 and version(tensor) == number
