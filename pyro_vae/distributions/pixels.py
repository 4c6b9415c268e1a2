"""Distributions of one pixel that torch and Pyro lack, or that lose digits in float32 there."""

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.intervals import OpenInterval

__all__ = ["Beta", "DiscretizedLogistic", "Levels", "NegativeBinomial", "Poisson", "StudentT"]


class Beta(dist.Beta):
    r"""A Beta on (0, 1) without the end points, where its density may be infinite.

    Log-densities are computed in float64: their terms cancel. What is left of a concentration a is
    right to about :math:`10^{-16} a \log a` nats.

    Arguments:
        concentration1, concentration0: As those of ``pyro.distributions.Beta``.

    Example:
        >>> from pyro_vae.distributions import Beta
        >>> p_x = Beta(torch.ones(3), torch.ones(3))
        >>> p_x.log_prob(torch.rand(3)).dtype
        torch.float32
    """

    support = OpenInterval(0.0, 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        return _in_float64(dist.Beta, value, concentration1=a, concentration0=b)


class StudentT(dist.StudentT):
    """A Student t whose log-densities are computed in float64: their terms cancel.

    Arguments:
        df, loc, scale: As those of ``pyro.distributions.StudentT``.

    Example:
        >>> from pyro_vae.distributions import StudentT
        >>> p_x = StudentT(torch.full((3,), 4.0), torch.zeros(3), torch.ones(3))
        >>> p_x.log_prob(torch.zeros(7, 3)).shape
        torch.Size([7, 3])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return _in_float64(dist.StudentT, value, df=self.df, loc=self.loc, scale=self.scale)


class Poisson(dist.Poisson):
    r"""A Poisson by the logarithm of its rate, with log-probabilities in float64: terms cancel.

    .. math:: \log P(x) = x f - e^f - \log x!

    A rate that overflows gives :math:`-\infty`, where its own logarithm would give NaN.

    Arguments:
        log_rate: f, of any shape; that shape is the batch shape.

    Example:
        >>> from pyro_vae.distributions import Poisson
        >>> p_x = Poisson(torch.tensor([-50.0, 0.0, 500.0]))
        >>> p_x.log_prob(torch.ones(3)).isnan()
        tensor([False, False, False])
    """

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Poisson":
        new = super().expand(batch_shape, self._get_checked_instance(Poisson, _instance))
        new.log_rate = self.log_rate.expand(batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_rate, x = self.log_rate.double(), value.double()
        log_prob = x * log_rate - log_rate.exp() - (x + 1).lgamma()
        return log_prob.to(self.log_rate.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return _poisson(self.rate.expand(self._extended_shape(sample_shape)))


class NegativeBinomial(dist.NegativeBinomial):
    r"""A negative binomial whose log-probabilities are computed in float64: their terms cancel.

    .. math:: \log P(x) = \log\Gamma(r + x) - \log\Gamma(r) - \log x!
        + r \log \sigma(-l) + x \log \sigma(l)

    Arguments:
        total_count, probs, logits: As those of ``pyro.distributions.NegativeBinomial``.

    Example:
        >>> from pyro_vae.distributions import NegativeBinomial
        >>> p_x = NegativeBinomial(torch.ones(3), logits=torch.zeros(3))
        >>> p_x.log_prob(torch.tensor([0.0, 1.0, 2.0])).shape
        torch.Size([3])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        r, logits, x = self.total_count.double(), self.logits.double(), value.double()
        ways = _log_rising(r, x) - (x + 1).lgamma()
        log_prob = ways + r * F.logsigmoid(-logits) + x * F.logsigmoid(logits)
        return log_prob.to(self.logits.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        rate = dist.Gamma(self.total_count, (-self.logits).exp(), validate_args=False)
        return _poisson(rate.sample(sample_shape))


def _poisson(rate: Tensor) -> Tensor:
    """Draws of Poissons; above 2^32 by their normal limit.

    There torch's rejection loses digits (the variance is 1.5 times too large at 1e18), and then
    its int64 overflows. The deviation of a draw at 2^32 is scaled, so that the draws below are
    torch's own.
    """
    most = 2.0**32
    drawn = torch.poisson(rate.clamp(max=most))
    above = rate + (drawn - most) * (rate / most).sqrt()
    return torch.where(rate > most, above.masked_fill(torch.isinf(rate), math.inf), drawn)


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    """The logarithm of Gamma(r + x) / Gamma(r), where x is not negative.

    Both are large where r is, and their difference has no digits; so there it is that of their
    expansions (NIST Digital Library of Mathematical Functions, 5.11.1).
    """
    large = r > 30  # where the next term of the expansion is below 3e-14
    base = torch.where(large, r, 30.0)
    expanded = (base + x - 0.5) * (x / base).log1p() + x * base.log() - x
    for power, factor in ((1, 12), (3, -360), (5, 1260)):
        expanded = expanded + ((base + x) ** -power - base**-power) / factor
    small = torch.where(large, 30.0, r)
    rising = torch.where(large, expanded, (small + x).lgamma() - small.lgamma())
    return rising.masked_fill(r + x == 0, 0.0)


def _in_float64(family: Any, value: Tensor, **parameters: Tensor) -> Tensor:
    """A log-probability whose log-gammas cancel: large ones would leave no digits in float32."""
    wide = {name: parameter.double() for name, parameter in parameters.items()}
    log_prob = family(**wide, validate_args=False).log_prob(value.double())
    return log_prob.to(next(iter(parameters.values())).dtype)


class Levels(dist.Categorical):
    """A categorical over the floats 0.0 to K - 1; unlike torch's, it has a mean and a variance.

    Arguments:
        probs, logits: As those of ``pyro.distributions.Categorical``, shape ``(*batch, K)``.

    Example:
        >>> from pyro_vae.distributions import Levels
        >>> p_x = Levels(logits=torch.zeros(5, 256))
        >>> p_x.mean.shape, p_x.sample().dtype
        (torch.Size([5]), torch.float32)
    """

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
    r"""A mixture of logistics cut into the levels 0.0 to L - 1; the outer levels take the tails.

    A level l stands for the value :math:`l / (L - 1)`, and its bin has the width
    :math:`w = 1 / (L - 1)`:

    .. math:: P(l) = \sum_k \pi_k \big[
        \sigma\big((l w + w/2 - \mu_k) / s_k\big) - \sigma\big((l w - w/2 - \mu_k) / s_k\big)\big]

    Source: Salimans et al. (2017), arXiv 1701.05517, section 2.1, on [0, 1] in place of [-1, 1].

    Arguments:
        logits: Log-weights of the components up to a constant, shape ``(*batch, components)``.
        loc: :math:`\mu`, the same shape.
        scale: s, the same shape.
        levels: Number of levels L.

    Example:
        >>> from pyro_vae.distributions import DiscretizedLogistic
        >>> zeros = torch.zeros(7, 3)
        >>> p_x = DiscretizedLogistic(zeros, zeros + 0.5, zeros + 0.1, levels=256)
        >>> p_x.log_prob(p_x.sample()).shape
        torch.Size([7])
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
        below, above = self._standardized(level - 0.5), self._standardized(level + 0.5)
        # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - e^(b - a)) loses no digits.
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
        # The mean is the sum over levels of P(x >= l). One level at a time saves memory.
        weights = self.logits.softmax(-1)
        mean = torch.zeros_like(self.loc[..., 0])
        for level in range(1, self.levels):
            mean = mean + (weights * (-self._standardized(level - 0.5)).sigmoid()).sum(-1)
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

    def _standardized(self, level: Tensor | float) -> Tensor:
        return (level / (self.levels - 1) - self.loc) / self.scale
