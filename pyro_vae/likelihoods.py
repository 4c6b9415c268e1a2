"""Likelihoods p(x|z): modules whose ``forward(z)`` returns a distribution over x.

For z of shape ``(*batch, z_dim)`` it has ``batch_shape batch`` and ``event_shape x_shape``. Any
module with such a ``forward`` serves.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions.utils import broadcast_all

SCALE_FLOOR = 1 / 256
"""Least scale that a network or a parameter can give a likelihood: one grey level on [0, 1].

Without a floor the likelihood of a constant background is unbounded.
"""


class CrossEntropy(dist.Bernoulli):
    r"""A Bernoulli that also scores x in [0, 1], by :math:`x \log p + (1 - x) \log(1 - p)`.

    Between 0 and 1 that is no log-density: it does not integrate to one. So ``support`` stays
    {0, 1}, and ``scored_support`` is the interval.
    """

    scored_support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def _validate_sample(self, value: Tensor) -> None:
        low, high = value.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError("x: expected values between 0 and 1")


class BernoulliEvent(dist.Independent):
    r"""Independent Bernoullis whose log-probabilities are summed as they are computed.

    .. math:: \log p(x) = \sum_d x_d l_d - \max(l_d, 0) - \log \prod_d (1 + e^{-|l_d|})

    The product is taken over sixteen elements at a time, as 1 + a grows to (1 + a)(1 + b), so that
    small terms keep all their digits and there is one logarithm for the sixteen. The logarithms
    are most of what a Bernoulli likelihood costs on a CPU.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        base, dims = self.base_dist, self.reinterpreted_batch_ndims
        if not dims:
            return base.log_prob(value)
        logits = base.logits
        if base._validate_args:
            fits = value.shape == logits.shape[logits.dim() - value.dim() :]
            # A fast test of 0 and 1; what fails it gets the full one and its error.
            if not fits or torch.addcmul(value, value, value, value=-1).abs_().sum() != 0:
                base._validate_sample(value)
        logits, value = broadcast_all(logits, value)
        return _CrossEntropySum.apply(logits.flatten(-dims), value.flatten(-dims))


class _CrossEntropySum(torch.autograd.Function):
    """Sums x l - log(1 + exp(l)) over the last dimension; see :class:`BernoulliEvent`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        linear = (x * logits - logits.clamp_min(0)).sum(-1)
        tails = logits.abs().neg_().exp_()
        rows = tails.shape[-1] // 16
        whole, rest = tails.split((16 * rows, tails.shape[-1] - 16 * rows), -1)
        product = whole.unflatten(-1, (16, rows))  # less one
        while product.shape[-2] > 1:
            a, b = product.chunk(2, -2)
            product = torch.addcmul(a + b, a, b)
        return linear - product.log1p().sum((-2, -1)) - rest.log1p().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, d_logits: Tensor, d_x: Tensor) -> Tensor:
        logits, x = ctx.saved_tensors
        return ((x - logits.sigmoid()) * d_logits + logits * d_x).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        logits, x = ctx.saved_tensors
        outer = gradient.unsqueeze(-1)
        return (
            (x - logits.sigmoid()) * outer if ctx.needs_input_grad[0] else None,
            logits * outer if ctx.needs_input_grad[1] else None,
        )


class Bernoulli(nn.Module):
    r"""Independent Bernoulli pixels, :math:`p(x|z) = \prod_d \mathrm{Bern}(x_d; \sigma(f_d(z)))`.

    Source: Kingma and Welling (2014), appendix C.1.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to logits of shape ``(*batch, *x_shape)``.
        relaxed: Also scores x between 0 and 1, by cross entropy, which is no normalized density
            there.
    """

    def __init__(self, network: nn.Module, relaxed: bool = False) -> None:
        super().__init__()
        self.network = network
        self.relaxed = relaxed

    def forward(self, z: Tensor) -> dist.Distribution:
        pixels = CrossEntropy if self.relaxed else dist.Bernoulli
        return BernoulliEvent(pixels(logits=self.network(z)), len(_out_shape(self.network)))

    def extra_repr(self) -> str:
        return "relaxed=True" if self.relaxed else ""


class Gaussian(nn.Module):
    r"""Independent normal pixels, :math:`p(x|z) = \prod_d \mathcal{N}(x_d; \mu_d(z), \sigma_d^2)`.

    The scale is one of three:

    * ``"pixel"``: from the network, :math:`\sigma_d(z) = \mathrm{softplus}(s_d(z)) + 1/256`;
    * ``"shared"``: one trained number for all pixels, :math:`\mathrm{softplus}(s) + 1/256`,
      which starts at 1;
    * a number: fixed. With 1 the log-density is minus half the squared error, and a constant.

    Source: Kingma and Welling (2014), appendix C.2.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to means of shape ``(*batch, *x_shape)``; with
            ``scale="pixel"`` to means and raw scales, of shape ``(*batch, 2, *x_shape)``.
        scale: ``"pixel"``, ``"shared"``, or a positive number.

    Raises:
        ValueError: The scale is none of these, or the network of a per-pixel scale does not give
            two numbers a pixel.
    """

    def __init__(
        self, network: nn.Module, scale: Literal["pixel", "shared"] | float = "pixel"
    ) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        if scale == "pixel":
            out_shape = _out_shape(network)
            if len(out_shape) < 2 or out_shape[0] != 2:
                raise ValueError(
                    f"network: got out_shape {tuple(out_shape)}, expected (2, *x_shape) for "
                    'scale="pixel": a mean and a raw scale for each pixel'
                )
        elif scale == "shared":
            start = math.log(math.expm1(1.0 - SCALE_FLOOR))
            self.raw_scale = nn.Parameter(torch.tensor(start))
        elif not _is_positive(scale):
            raise ValueError(
                f'scale: got {scale!r}, expected "pixel", "shared" or a positive number'
            )

    def forward(self, z: Tensor) -> dist.Distribution:
        out = self.network(z)
        event_dim = len(_out_shape(self.network))
        scale: Tensor | float
        if self.scale == "pixel":
            loc, raw_scale = out.unbind(-event_dim)
            scale = F.softplus(raw_scale) + SCALE_FLOOR
            event_dim -= 1
        elif self.scale == "shared":
            loc, scale = out, F.softplus(self.raw_scale) + SCALE_FLOOR
        else:
            loc, scale = out, self.scale
        return dist.Normal(loc, scale).to_event(event_dim)

    def extra_repr(self) -> str:
        return f"scale={self.scale!r}"


def _is_positive(scale: Any) -> bool:
    return isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale < math.inf


def _out_shape(network: nn.Module) -> torch.Size:
    if not hasattr(network, "out_shape"):
        raise TypeError(
            f"network: got a {type(network).__name__} without an attribute out_shape, expected "
            "the shape of one output, without batch dimensions"
        )
    return torch.Size(cast(Sequence[int], network.out_shape))
