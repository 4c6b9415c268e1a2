"""k-hat, the tail shape of importance weights, as in Pareto smoothed importance sampling."""

import math

import torch
from torch import Tensor

LEAST_TAIL = 5
"""The smallest number of weights in a tail whose shape is estimated."""


def tail_length(num_samples: int) -> int:
    r"""Returns how many of K weights form the tail, :math:`\lceil\min(K/5, 3 \sqrt K)\rceil`."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def khat_threshold(num_samples: int) -> float:
    r"""Returns the largest k-hat for which K weights are enough.

    .. math:: \min(1 - 1 / \log_{10} K,\; 0.7)

    NaN for fewer than 21 weights, whose tail is too short for a k-hat. Source: Vehtari et al.
    (2024), arXiv 1507.02646, section 3.2.4.
    """
    if tail_length(num_samples) < LEAST_TAIL:
        return math.nan
    return min(1 - 1 / math.log10(num_samples), 0.7)


def khat(tail: Tensor) -> Tensor:
    r"""Returns the shape k of a generalized Pareto distribution, fitted to the tail of weights.

    Weights have a finite variance if k < 1/2, and a finite mean if k < 1. The fit is that of
    Pyro's ``fit_generalized_pareto``, for many tails at once. Special values are:

    - minus infinity, if all weights of the tail are equal, to a relative 1e-3;
    - infinity, if all weights are zero, or the lower quarter of the tail is zero in relation to
      the largest weight;
    - NaN, if the tail has fewer than 5 weights, or more than a quarter of it equals the cutoff.

    Source: Zhang and Stephens (2009), Technometrics 51; Vehtari et al. (2024), arXiv 1507.02646,
    section 3.

    Arguments:
        tail: Log-weights in descending order, shape ``(M + 1, N)``: the M weights of the tail, and
            the next one as the cutoff.

    Returns:
        k, of shape ``(N,)``.
    """
    size = len(tail) - 1
    if size < LEAST_TAIL:
        return tail.new_full(tail.shape[1:], math.nan)
    largest, cutoff = tail[0], tail[-1]
    # Excesses over the cutoff in units of the largest weight, in ascending order: (N, M).
    excess = ((tail[:-1] - largest).exp() * -torch.expm1(cutoff - tail[:-1])).flip(0).T
    # Differences up to 1e-3 may be float32 rounding, and are too small to affect the mean.
    constant = largest - cutoff <= 1e-3
    quartile = excess[:, int(size / 4 + 0.5) - 1]
    grid = 30 + int(math.sqrt(size))
    steps = torch.arange(1, grid + 1, dtype=tail.dtype, device=tail.device) - 0.5
    b = 1 / excess[:, -1:] + (1 - (grid / steps).sqrt()) / (3 * quartile[:, None])  # (N, grid)
    k = torch.log1p(-b[..., None] * excess[:, None]).mean(-1)
    posterior = (size * ((-b / k).log() - k - 1)).softmax(-1)
    shape = torch.log1p(-(b * posterior).sum(-1, keepdim=True) * excess).mean(-1)
    shape = (size * shape + 5) / (size + 10)  # a weak prior centred at 1/2
    # The fit is undefined where the quartile equals the cutoff. Logarithms are compared, since the
    # quartile itself may underflow.
    above = tail[size - int(size / 4 + 0.5)] > cutoff
    shape = torch.where(above, shape.nan_to_num(nan=math.inf), math.nan)
    shape = torch.where(cutoff.isneginf() & ~above, math.inf, shape)
    return torch.where(constant & ~largest.isneginf(), -math.inf, shape)
