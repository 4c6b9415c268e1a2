"""Importance weights, streamed: what they say of the evidence, and how far to trust it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.psis import khat, tail_length

CHUNK = 64
"""Samples that are added at a time."""

_AT_ONCE = 16 * CHUNK  # samples that are summed together: fewer cost as many calls
_TOP = 64  # largest weights that are kept at least: all others are below a 65th of the sum
_POWERS = 4  # of the others in the jackknife's series, whose rest is below 65**-4 / 5 = 1e-8


@dataclass(frozen=True)
class Statistics:
    r"""What K weights :math:`w_k` of each of N examples say, all of shape ``(N,)`` or ``(S, N)``.

    Attributes:
        value: :math:`\log \frac1K \sum_k w_k`.
        log_mean: :math:`\frac1K \sum_k \log w_k`.
        ess: Effective sample size :math:`(\sum_k w_k)^2 / \sum_k w_k^2`; 0 where all are zero.
        khat: Shape of the generalized Pareto tail, see :func:`khat`.
        jackknife: `value` with its bias of first order taken out, see :func:`_jackknife`.
        variance: Of `value` over draws of the weights, by the delta method,
            :math:`(K / \mathrm{ESS} - 1) / (K - 1)`; NaN for one weight.
        sizes: Numbers of weights k = 1, 2, 4, ..., of which there are two groups or more.
        bounds: For each of them the mean of :math:`\log \frac1k \sum w` over disjoint groups.
        bound_variances: Of `bounds`, from the groups' scatter.
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
    r"""Sums over a stream of log-weights, from which :meth:`statistics` follow.

    Memory is for the largest weights of each example, as many as its tail takes,
    :math:`3 \sqrt K`, and a few sums of all others.

    Arguments:
        num_samples: K, the number of weights that will come.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.tail = tail_length(num_samples)
        self.top = torch.empty(0)
        """Log-weights in falling order, shape ``(kept, N)``."""
        self.rest = torch.empty(0)
        """Logarithms of the sums of the others' powers 1, 2, ..., shape ``(powers, N)``."""
        self.logs = torch.empty(0)
        self.groups: list[_Groups] = []
        self.waiting: dict[int, Tensor] = {}
        self.count = 0
        self._new: list[Tensor] = []

    def add(self, log_w: Tensor) -> None:
        """Takes the next log-weights of each example, shape ``(CHUNK, N)``, the last ones fewer.

        Raises:
            FloatingPointError: One is NaN or positively infinite.
        """
        if not log_w.amax().item() < math.inf:  # and NaN is below nothing
            wrong = (~(log_w < math.inf)).any(0).nonzero().flatten().tolist()
            raise FloatingPointError(
                f"log-weights of the examples {wrong[:5]} of a block are NaN or infinite"
            )
        self._new.append(log_w.to(torch.float64, copy=True))  # it may be filled anew
        if len(self._new) * CHUNK == _AT_ONCE:
            self._sum()

    def _sum(self) -> None:
        """Takes what is new into the sums."""
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
        """Adds sums of pairs, of pairs of pairs, and so on, to the groups of their sizes."""
        level, sums = 0, log_w
        while len(sums):
            self._add_groups(level, sums)
            if len(sums) == 1:
                # What is whole waits for another, and two of them for two others. The last ones,
                # if they are fewer, find none: they end at a lower level.
                if level not in self.waiting:
                    self.waiting[level] = sums
                    return
                sums = torch.cat((self.waiting.pop(level), sums))
            pairs = len(sums) // 2 * 2
            sums = torch.logaddexp(sums[0:pairs:2], sums[1:pairs:2])
            level += 1

    def _add_groups(self, level: int, sums: Tensor) -> None:
        if level == len(self.groups):
            self.groups.append(_Groups())
        self.groups[level].add(sums - level * math.log(2))

    def statistics(self) -> Statistics:
        """Of the weights that have come, K of them."""
        self._sum()
        count = self.count
        rest, rest_squares = self.rest[:2]
        log_sum = torch.logaddexp(self.top.logsumexp(0), rest)
        squares = torch.logaddexp((2 * self.top).logsumexp(0), rest_squares)
        ess = torch.where(log_sum.isneginf(), 0.0, (2 * log_sum - squares).exp())
        # Where all weights are equal, rounding leaves a little less than nothing.
        spread = (count / ess - 1).clamp(min=0)
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
        r"""The jackknifed bound, :math:`K L_K - \frac{K - 1}{K} \sum_k L_{K - 1}^{(-k)}`.

        Its bias is of order :math:`K^{-2}`; it is no bound, and infinite where all but one of the
        weights are nothing. With normalized weights v it takes the sum of :math:`\log(1 - v_k)`,
        which the largest give exactly and the others by their powers' sums :math:`p_j`,
        :math:`-\sum_j p_j / j`. Source: Nowozin (2018), Debiasing evidence approximations, ICLR,
        equation 14.
        """
        count = self.count
        if count == 1:
            return torch.full_like(log_sum, math.nan)
        normalized = self.top - log_sum
        # One less the largest is the sum of all others, of which rounding takes nothing.
        others = torch.cat((self.top[1:], self.rest[:1])).logsumexp(0) - log_sum
        logs = others + torch.log1p(-normalized[1:].exp()).sum(0)
        for power in range(1, _POWERS + 1):
            logs = logs - (self.rest[power - 1] - power * log_sum).exp() / power
        entropy = count * math.log(count) - (count - 1) * math.log(count - 1)
        return log_sum - entropy - (count - 1) / count * logs


class _Groups:
    """Sums over groups, for their mean and the scatter of it."""

    def __init__(self) -> None:
        self.count = 0
        self._first: Tensor | float = 0.0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        if not self.count:
            # Near all others, so that squares about it lose no digits.
            self._first = torch.where(values[0].isfinite(), values[0], 0.0)
        apart = values - self._first
        self.count += len(values)
        self._sum = self._sum + apart.sum(0)
        self._squares = self._squares + apart.square().sum(0)

    def mean(self) -> Tensor:
        return torch.as_tensor(self._first + self._sum / self.count)

    def variance(self) -> Tensor:
        """Of the mean; NaN for one group."""
        if self.count == 1:
            return torch.as_tensor(self._first) * math.nan
        spread = torch.as_tensor(self._squares - self._sum * self._sum / self.count).nan_to_num(
            nan=math.inf  # of -inf, among numbers or alone
        )
        return spread.clamp(min=0) / (self.count * (self.count - 1))
