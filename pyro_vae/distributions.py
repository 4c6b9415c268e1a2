"""Distributions over pixels that torch and Pyro lack, or have less exact."""

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, biject_to, transform_to
from torch.distributions.utils import broadcast_all


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
    small terms are not rounded away (in float32 to 2e-6 of themselves for logits up to 80) and
    there is one logarithm for the sixteen. The logarithms are most of what a Bernoulli likelihood
    costs on a CPU.
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
        # Inductor reads an exp that is used twice from memory, but not an exp2.
        tails = logits.abs().mul_(-1 / math.log(2)).exp2_()
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


class ContinuousBernoulli(dist.TorchDistribution):
    r"""The continuous Bernoulli on [0, 1], :math:`p(x) \propto e^{x l}`, exact for any logit.

    .. math:: \log p(x) = x l - \log \frac{e^l - 1}{l}

    torch's own clamps probabilities and cuts out those near one half, and does not integrate to
    one there.

    Source: Loaiza-Ganem and Cunningham (2019), arXiv 1907.06845, section 3.

    Arguments:
        logits: l, of any shape, which is the batch shape.
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
        # For l > 0 less l on both sides, before the two can cancel.
        far = torch.where(safe > 0, value - 1, value) * safe - (-torch.expm1(-size) / size).log()
        square = (small / 2).square()  # log(sinh(h) / h) by its series
        terms = 1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800))
        return torch.where(near, (value - 0.5) * small - square * terms, far)

    @property
    def mean(self) -> Tensor:
        near, safe, small = self._near_zero(self.logits)
        square = small.square()
        terms = 1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600))
        size = safe.abs()
        far = 1 / size + (-size).exp() / torch.expm1(-size)  # of -|l|
        far = torch.where(safe > 0, 1 - far, far)
        return torch.where(near, 0.5 + small * terms, far)

    @property
    def mode(self) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        near, safe, small = self._near_zero(self.logits, 1e-2)
        # The inverse distribution function, in a form that does not overflow, and one for great l.
        great = safe > 40
        low, high = safe.masked_fill(great, 1.0), safe.masked_fill(~great, 1.0)
        x = torch.log1p(u * torch.expm1(low)) / low
        steep = 1 + torch.logaddexp(u.log(), (-u).log1p() - high) / high
        series = u + u * (1 - u) * small * (1 / 2 + (1 - 2 * u) * small / 6)
        x = torch.where(near, series, torch.where(great, steep, x))
        return x.clamp(0, 1)  # beyond which rounding may lead

    @staticmethod
    def _near_zero(logits: Tensor, width: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
        """Where closed forms cancel; logits for these, 1 there; logits for series, 0 elsewhere."""
        near = logits.abs() < width
        return near, logits.masked_fill(near, 1.0), logits.masked_fill(~near, 0.0)


class OpenInterval(type(constraints.unit_interval)):  # type: ignore[misc]
    """An interval without its ends."""

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is strictly inside."""
        return (value > self.lower_bound) & (value < self.upper_bound)


@biject_to.register(OpenInterval)
@transform_to.register(OpenInterval)
def _onto_open_interval(support: OpenInterval) -> Transform:
    return biject_to(constraints.interval(support.lower_bound, support.upper_bound))


class Beta(dist.Beta):
    """A Beta on (0, 1), without the ends, where its density may be infinite; scored in float64."""

    support = OpenInterval(0.0, 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        return _in_float64(dist.Beta, value, concentration1=a, concentration0=b)


class StudentT(dist.StudentT):
    """A Student t that is scored in float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return _in_float64(dist.StudentT, value, df=self.df, loc=self.loc, scale=self.scale)


class NegativeBinomial(dist.NegativeBinomial):
    """A negative binomial that is scored in float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        count, logits = self.total_count, self.logits
        return _in_float64(dist.NegativeBinomial, value, total_count=count, logits=logits)


def _in_float64(family: Any, value: Tensor, **parameters: Tensor) -> Tensor:
    """A log-probability whose log-gammas cancel: of great numbers float32 leaves no digits."""
    wide = {name: parameter.double() for name, parameter in parameters.items()}
    log_prob = family(**wide, validate_args=False).log_prob(value.double())
    return log_prob.to(next(iter(parameters.values())).dtype)


class LowRankNormal(dist.LowRankMultivariateNormal):
    r"""A normal of covariance :math:`W W^\top + D`, computed in float64.

    Its log-density is the difference of two terms that grow with :math:`|W|^2 / D`: where torch's
    own subtracts them in float32, scales of 1/100 beside factors of one leave an error of a tenth
    of a nat, and scales of 1/1000 one of many nats.
    """

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self._dtype = loc.dtype
        super().__init__(
            loc.double(), cov_factor.double(), cov_diag.double(), validate_args=validate_args
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LowRankNormal":
        new = super().expand(
            torch.Size(batch_shape), self._get_checked_instance(LowRankNormal, _instance)
        )
        new._dtype = self._dtype
        return new

    @property
    def mean(self) -> Tensor:
        return super().mean.to(self._dtype)

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def variance(self) -> Tensor:
        variance = self.cov_factor.square().sum(-1) + self.cov_diag
        return variance.to(self._dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return super().rsample(torch.Size(sample_shape)).to(self._dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.double()).to(self._dtype)

    def entropy(self) -> Tensor:
        return super().entropy().to(self._dtype)


class Levels(dist.Categorical):
    """A categorical over the numbers 0.0 to K - 1, which are floats and have a mean."""

    @property
    def mean(self) -> Tensor:
        return self.probs @ self._levels()

    @property
    def variance(self) -> Tensor:
        deviations = self._levels() - self.mean.unsqueeze(-1)
        return (self.probs * deviations.square()).sum(-1)

    @property
    def mode(self) -> Tensor:
        return super().mode.to(self.logits.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    def _levels(self) -> Tensor:
        return torch.arange(self._num_events, dtype=self.logits.dtype, device=self.logits.device)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""Mixtures of logistics, cut into the levels 0.0 to L - 1; the outer levels take the tails.

    On the scale where a level is :math:`l / (L - 1)`, with bins of width :math:`w = 1 / (L - 1)`,

    .. math:: P(l) = \sum_k \pi_k \big[
        \sigma\big((l w + w/2 - \mu_k) / s_k\big) - \sigma\big((l w - w/2 - \mu_k) / s_k\big)\big]

    Source: Salimans et al. (2017), arXiv 1701.05517, section 2.1, on [0, 1] in place of [-1, 1].

    Arguments:
        logits: Log-weights of the components up to a constant, shape ``(*batch, components)``.
        loc: :math:`\mu`, the same shape.
        scale: s, the same shape.
        levels: L.
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        levels: int,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        shape = (*batch_shape, self.loc.shape[-1])
        new.logits, new.loc, new.scale = (
            t.expand(shape) for t in (self.logits, self.loc, self.scale)
        )
        new.levels = self.levels
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        top = self.levels - 1
        level = value.unsqueeze(-1)
        below, above = self._tails(level - 0.5), self._tails(level + 0.5)
        # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - e^(b - a)), where no digits cancel.
        log_below, log_above = F.logsigmoid(-below), F.logsigmoid(above)
        inside = log_below + log_above + (-torch.expm1(-1 / (top * self.scale))).log()
        edge = torch.where(level == 0, log_above, log_below)
        outer = (level == 0) | (level == top)
        log_probs = torch.where(outer, edge, inside)
        if self.loc.shape[-1] == 1:
            return log_probs.squeeze(-1)
        return (self.logits.log_softmax(-1) + log_probs).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        # The sum of P(x >= l) over levels; one at a time, as all at once take much memory.
        weights = self.logits.softmax(-1)
        mean = torch.zeros_like(self.loc[..., 0])
        for level in range(1, self.levels):
            mean = mean + (weights * (-self._tails(level - 0.5)).sigmoid()).sum(-1)
        return mean

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.loc.shape
            which = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape))
            loc, scale = (
                t.expand(shape).gather(-1, which.unsqueeze(-1)).squeeze(-1)
                for t in (self.loc, self.scale)
            )
            u = torch.rand_like(loc)
            return (
                ((loc + scale * u.logit()) * (self.levels - 1)).round().clamp(0, self.levels - 1)
            )

    def _tails(self, level: Tensor | float) -> Tensor:
        return (level / (self.levels - 1) - self.loc) / self.scale
