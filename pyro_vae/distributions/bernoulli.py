"""Bernoulli distributions for pixels: cross entropy on grey values, fast sums, and continuous."""

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

__all__ = ["BernoulliEvent", "ContinuousBernoulli", "CrossEntropy"]


class CrossEntropy(dist.Bernoulli):
    r"""A Bernoulli that also scores x in [0, 1], by :math:`x \log p + (1 - x) \log(1 - p)`.

    Between 0 and 1 this score is not a log-density: it does not integrate to one. Therefore
    ``support`` stays {0, 1}, and ``scored_support`` is the unit interval.

    Arguments:
        probs, logits: As those of ``pyro.distributions.Bernoulli``; one of the two.

    Raises:
        ValueError: In ``log_prob`` with validation on, x has values outside of [0, 1].

    Example:
        >>> from pyro_vae.distributions import CrossEntropy
        >>> grey = torch.tensor([0.0, 0.25, 1.0])
        >>> CrossEntropy(logits=torch.zeros(3)).log_prob(grey).shape
        torch.Size([3])
    """

    scored_support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def _validate_sample(self, value: Tensor) -> None:
        if not value.numel():
            return
        low, high = value.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"x: got values from {low.item():g} to {high.item():g}, expected values between "
                "0 and 1"
            )


class BernoulliEvent(dist.Independent):
    r"""Independent Bernoullis, scored and summed in one pass.

    .. math:: \log p(x) = \sum_d x_d l_d - \max(l_d, 0) - \log \prod_d (1 + e^{-|l_d|})

    The product is taken over sixteen elements at a time, and kept as its difference from one: from
    a and b, :math:`(1 + a)(1 + b) - 1`. This way small terms are not rounded away (their relative
    error in float32 is at most 2e-6 for logits up to 80), and sixteen elements share a logarithm.
    The logarithms are most of the cost of a Bernoulli likelihood on a CPU.

    Arguments:
        base_distribution: A ``Bernoulli`` or :class:`CrossEntropy`.
        reinterpreted_batch_ndims: Number of its last dimensions that form the event.

    Example:
        >>> from pyro_vae.distributions import BernoulliEvent
        >>> p_x = BernoulliEvent(pyro.distributions.Bernoulli(logits=torch.zeros(7, 28, 28)), 2)
        >>> p_x.log_prob(p_x.sample()).shape
        torch.Size([7])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        base, dims = self.base_dist, self.reinterpreted_batch_ndims
        if not dims:
            return base.log_prob(value)
        logits = base.logits
        if base._validate_args:
            fits = value.shape == logits.shape[logits.dim() - value.dim() :]
            # A fast test for zeros and ones; where it fails, the full check decides and raises.
            if not fits or torch.addcmul(value, value, value, value=-1).abs_().sum() != 0:
                base._validate_sample(value)
        return self._sum(logits, value)

    def log_prob_without(self, value: Tensor, holes: Tensor) -> Tensor:
        """The log-density of the elements that are not in holes.

        Arguments:
            value: 0 in holes.
            holes: The elements that do not count, of the shape of `value`.
        """
        base = self.base_dist
        if base._validate_args:
            base._validate_sample(value)
        # With so small a logit, a zero counts exactly 0, and all others as without holes.
        logits, value, holes = torch.broadcast_tensors(base.logits, value, holes)
        return self._sum(logits.masked_fill(holes, -1e4), value)

    def _sum(self, logits: Tensor, value: Tensor) -> Tensor:
        logits, value = broadcast_all(logits, value)
        dims = self.reinterpreted_batch_ndims
        return _CrossEntropySum.apply(logits.flatten(-dims), value.flatten(-dims))


class _CrossEntropySum(torch.autograd.Function):
    """The sum of x l - log(1 + exp(l)) over the last dimension; see :class:`BernoulliEvent`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        linear = (x * logits - logits.clamp_min(0)).sum(-1)
        # exp2 and not exp: Inductor writes an exp that is used twice to memory, but not an exp2.
        tails = logits.abs().mul_(-1 / math.log(2)).exp2_()
        rows = tails.shape[-1] // 16
        whole, rest = tails.split((16 * rows, tails.shape[-1] - 16 * rows), -1)
        product = whole.unflatten(-1, (16, rows))  # the product's difference from one
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


class ContinuousBernoulli(dist.TorchDistribution):
    r"""The continuous Bernoulli on [0, 1], :math:`p(x) \propto e^{x l}`, exact for any logit.

    .. math:: \log p(x) = x l - \log \frac{e^l - 1}{l}

    torch's class clamps the probabilities and approximates the density near one half, where it
    does not integrate to one.

    Source: Loaiza-Ganem and Cunningham (2019), arXiv 1907.06845, section 3.

    Arguments:
        logits: l, of any shape; that shape is the batch shape.

    Example:
        >>> from pyro_vae.distributions import ContinuousBernoulli
        >>> p_x = ContinuousBernoulli(torch.tensor([-50.0, 0.0, 50.0]))
        >>> p_x.rsample((7,)).shape
        torch.Size([7, 3])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ContinuousBernoulli":
        new = self._get_checked_instance(ContinuousBernoulli, _instance)
        new.logits = self.logits.expand(batch_shape)
        super(ContinuousBernoulli, new).__init__(new.logits.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        near, safe, small = self._near_zero(logits)
        size = safe.abs()
        # For l > 0, subtract l from both terms first: otherwise they would cancel.
        far = torch.where(safe > 0, value - 1, value) * safe - (-torch.expm1(-size) / size).log()
        square = (small / 2).square()  # the series of log(sinh(h) / h)
        last = square * (1 / 467775 - square * (691 / 3831077250))
        terms = 1 / 6 - square * (1 / 180 - square * (1 / 2835 - square * (1 / 37800 - last)))
        return torch.where(near, (value - 0.5) * small - square * terms, far)

    @property
    def mean(self) -> Tensor:
        near, safe, small = self._near_zero(self.logits)
        square = small.square()
        last = square * (1 / 47900160 - square * (691 / 1307674368000))
        terms = 1 / 12 - square * (1 / 720 - square * (1 / 30240 - square * (1 / 1209600 - last)))
        size = safe.abs()
        far = 1 / size + (-size).exp() / torch.expm1(-size)  # the mean for -|l|
        far = torch.where(safe > 0, 1 - far, far)
        return torch.where(near, 0.5 + small * terms, far)

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        near, safe, small = self._near_zero(self.logits, 1e-2)
        # The inverse distribution function in three forms: for large l, where exp would overflow,
        # for l near zero, where the closed form cancels, and for all others.
        large = safe > 40
        low, high = safe.masked_fill(large, 1.0), safe.masked_fill(~large, 1.0)
        x = torch.log1p(u * torch.expm1(low)) / low
        steep = 1 + torch.logaddexp(u.log(), (-u).log1p() - high) / high
        series = u + u * (1 - u) * small * (1 / 2 + (1 - 2 * u) * small / 6)
        x = torch.where(near, series, torch.where(large, steep, x))
        return x.clamp(0, 1)  # rounding may lead out of the interval

    @staticmethod
    def _near_zero(logits: Tensor, width: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
        """Where the closed forms cancel, and the logits for the closed forms and for the series.

        The former are 1 and the latter 0 where they are not used, so that gradients stay finite.
        """
        near = logits.abs() < width
        return near, logits.masked_fill(near, 1.0), logits.masked_fill(~near, 0.0)
