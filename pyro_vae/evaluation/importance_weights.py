"""Statistics of a stream of importance weights: estimates of log p(x) and their errors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.psis import khat, tail_length

CHUNK = 64
"""Number of log-weights of each example that are added at a time."""

_BUFFERED = 16 * CHUNK  # log-weights that are summed in one go, to save calls
_TOP = 64  # the fewest largest weights that are kept: each other is below 1/65 of the sum
_POWERS = 4  # terms of the jackknife's series for the others; the rest is below 65**-4 / 5 = 1e-8


@dataclass(frozen=True)
class Statistics:
    r"""Statistics of K weights :math:`w_k` of each of N examples, in float64.

    Attributes:
        value: :math:`\log \frac1K \sum_k w_k` in nats, shape ``(N,)``.
        log_mean: :math:`\frac1K \sum_k \log w_k` in nats, shape ``(N,)``.
        ess: Effective sample size :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, shape ``(N,)``; 0 if all
            weights are zero.
        khat: Shape of the generalized Pareto tail, shape ``(N,)``, see :func:`khat`.
        jackknife: `value` without its first-order bias, shape ``(N,)``, see
            :meth:`Weights._jackknife`.
        variance: Monte Carlo variance of `value` by the delta method,
            :math:`(K / \mathrm{ESS} - 1) / (K - 1)`, shape ``(N,)``; NaN for one weight.
        sizes: The group sizes k = 1, 2, 4, ... for which there are two groups or more.
        bounds: The mean of :math:`\log \frac1k \sum w` over disjoint groups of each size, shape
            ``(sizes, N)``.
        bound_variances: The variance of `bounds`, estimated from the groups, of the same shape.
    """

    value: Tensor
    log_mean: Tensor
    ess: Tensor
    khat: Tensor
    jackknife: Tensor
    variance: Tensor
    sizes: tuple[int, ...]
    bounds: Tensor
    bound_variances: Tensor


class Weights:
    r"""Sums over a stream of log-weights, from which :meth:`statistics` are computed.

    Only the largest weights of each example are kept, as many as its tail has
    (:math:`3 \sqrt K`), and a few sums over all others.

    Arguments:
        num_samples: K, the number of weights of each example.

    Attributes:
        top: The largest log-weights in descending order, shape ``(kept, N)``.
        rest: Logarithms of the sums of the other weights' powers 1, 2, ..., shape ``(powers, N)``.
        logs: Sums of log-weights, shape ``(N,)``.
        groups: Sums over groups of 1, 2, 4, ... weights.
        waiting: A group without a partner yet, for each level at which there is one.
        count: The number of weights that are summed.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.tail = tail_length(num_samples)
        self.top = torch.empty(0)
        self.rest = torch.empty(0)
        self.logs = torch.empty(0)
        self.groups: list[_Groups] = []
        self.waiting: dict[int, Tensor] = {}
        self.count = 0
        self._new: list[Tensor] = []

    def add(self, log_w: Tensor) -> None:
        """Adds the next log-weights of each example.

        Arguments:
            log_w: Log-weights of shape ``(CHUNK, N)`` or of several chunks; the last ones may be
                fewer.

        Raises:
            FloatingPointError: A log-weight is NaN or positive infinity.
        """
        if not log_w.amax().item() < math.inf:  # NaN compares as False
            wrong = (~(log_w < math.inf)).any(0).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"log-weights: those of the examples {wrong[:5]} of a block are NaN or infinite, "
                "expected finite numbers or -inf"
            )
        # A copy, since compiled code may write its next output into the same memory.
        log_w = log_w.to(torch.float64, copy=True)
        while len(log_w):
            free = _BUFFERED - sum(map(len, self._new))
            self._new.append(log_w[:free])
            log_w = log_w[free:]
            if len(self._new[-1]) == free:
                self._sum()

    def _sum(self) -> None:
        """Moves the buffered log-weights into the sums."""
        if not self._new:
            return
        log_w = torch.cat(self._new)
        self._new = []
        if not self.count:
            self.top = log_w[:0]
            self.rest = log_w.new_full((_POWERS, log_w.shape[1]), -math.inf)
            self.logs = torch.zeros_like(log_w[0])
        self.count += len(log_w)
        self.logs = self.logs + log_w.sum(0)
        ordered = torch.cat((self.top, log_w)).sort(0, descending=True).values
        kept = max(_TOP, self.tail + 1)
        self.top, others = ordered[:kept], ordered[kept:]
        if len(others):
            powers = [(power * others).logsumexp(0) for power in range(1, _POWERS + 1)]
            self.rest = torch.logaddexp(self.rest, torch.stack(powers))
        self._group(log_w)

    def _group(self, log_w: Tensor) -> None:
        """Sums groups of 1, 2, 4, ... weights and adds them to the groups of their size."""
        level, sums = 0, log_w
        while len(sums):
            self._add_groups(level, sums)
            if len(sums) == 1:
                # A complete group waits for a partner to form the next larger group with. The
                # groups of a last, smaller chunk find none, and stay at a lower level.
                if level not in self.waiting:
                    self.waiting[level] = sums
                    return
                sums = torch.cat((self.waiting.pop(level), sums))
            even = len(sums) // 2 * 2
            sums = torch.logaddexp(sums[0:even:2], sums[1:even:2])
            level += 1

    def _add_groups(self, level: int, sums: Tensor) -> None:
        if level == len(self.groups):
            self.groups.append(_Groups())
        self.groups[level].add(sums - level * math.log(2))

    def statistics(self) -> Statistics:
        """Returns the statistics of the K weights that were added."""
        self._sum()
        count = self.count
        rest, rest_squares = self.rest[:2]
        log_sum = torch.logaddexp(self.top.logsumexp(0), rest)
        squares = torch.logaddexp((2 * self.top).logsumexp(0), rest_squares)
        # Rounding may give a little more than K if all weights are equal.
        ess = torch.where(log_sum.isneginf(), 0.0, (2 * log_sum - squares).exp()).clamp(max=count)
        spread = count / ess - 1
        groups = [g for g in self.groups if g.count > 1]
        return Statistics(
            value=log_sum - math.log(count),
            log_mean=self.logs / count,
            ess=ess,
            khat=khat(self.top[: self.tail + 1]),
            jackknife=self._jackknife(log_sum),
            variance=spread / (count - 1) if count > 1 else spread * math.nan,
            sizes=tuple(2**level for level in range(len(groups))),
            bounds=torch.stack([g.mean() for g in groups]) if groups else self.top[:0],
            bound_variances=torch.stack([g.variance() for g in groups])
            if groups
            else self.top[:0],
        )

    def _jackknife(self, log_sum: Tensor) -> Tensor:
        r"""Returns the jackknife estimate of log p(x) in nats, shape ``(N,)``.

        .. math:: K L_K - \frac{K - 1}{K} \sum_k L_{K - 1}^{(-k)}

        Its bias is of order :math:`K^{-2}`. It is not a bound, and it is infinite if all weights
        but one are zero. It needs the sum of :math:`\log(1 - v_k)` over the normalized weights v.
        The sum is exact for the largest weights. For the others it is the series
        :math:`-\sum_j p_j / j`, where :math:`p_j` is the sum of their powers j.

        Source: Nowozin (2018), Debiasing evidence approximations, ICLR, equation 14.
        """
        count = self.count
        if count == 1:
            return torch.full_like(log_sum, math.nan)
        normalized = self.top - log_sum
        # 1 - v of the largest weight is the sum of all others, which loses no digits.
        others = torch.cat((self.top[1:], self.rest[:1])).logsumexp(0) - log_sum
        logs = others + torch.log1p(-normalized[1:].exp()).sum(0)
        for power in range(1, _POWERS + 1):
            logs = logs - (self.rest[power - 1] - power * log_sum).exp() / power
        entropy = count * math.log(count) - (count - 1) * math.log(count - 1)
        return log_sum - entropy - (count - 1) / count * logs


class _Groups:
    """Sums over groups, for the mean of their values and its variance."""

    def __init__(self) -> None:
        self.count = 0
        self._first: Tensor | float = 0.0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        if not self.count:
            # Differences from the first value are small, so their squares lose no digits.
            self._first = torch.where(values[0].isfinite(), values[0], 0.0)
        difference = values - self._first
        self.count += len(values)
        self._sum = self._sum + difference.sum(0)
        self._squares = self._squares + difference.square().sum(0)

    def mean(self) -> Tensor:
        return torch.as_tensor(self._first + self._sum / self.count)

    def variance(self) -> Tensor:
        """Returns the variance of the mean; NaN for one group."""
        if self.count == 1:
            return torch.as_tensor(self._first) * math.nan
        spread = torch.as_tensor(self._squares - self._sum * self._sum / self.count).nan_to_num(
            nan=math.inf  # some or all values are -inf
        )
        return spread.clamp(min=0) / (self.count * (self.count - 1))
