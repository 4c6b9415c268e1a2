"""k-hat, the tail shape of importance weights, as in Pareto smoothed importance sampling."""

import math

import torch
from torch import Tensor

LEAST_TAIL = 5
"""The least number of weights of which a tail's shape is estimated."""


def tail_length(num_samples: int) -> int:
    r"""How many of K weights are their tail, :math:`\lceil\min(K / 5, 3 \sqrt K)\rceil`."""
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def khat_threshold(num_samples: int) -> float:
    r"""The k-hat up to which K weights are enough, :math:`\min(1 - 1 / \log_{10} K, 0.7)`.

    NaN below 21 weights, whose tail is too short for a k-hat. Source: Vehtari et al. (2024), arXiv
    1507.02646, section 3.2.4.
    """
    if tail_length(num_samples) < LEAST_TAIL:
        return math.nan
    return min(1 - 1 / math.log10(num_samples), 0.7)


def khat(tail: Tensor) -> Tensor:
    r"""The shape k of a generalized Pareto distribution, fitted to the tails of weights.

    Weights with k below 1/2 have a variance, those with k below 1 a mean. As Pyro's
    ``fit_generalized_pareto`` has it, for many tails at once. Where a tail is constant, up to a
    thousandth, it is minus infinity; where its lower quarter is nothing beside the largest weight,
    or all weights are zero, infinity; where it has fewer than 5 weights, or more than a quarter of
    it equals the one below it, NaN. Source: Zhang and Stephens (2009), Technometrics 51; Vehtari
    et al. (2024), arXiv 1507.02646, section 3.

    Arguments:
        tail: Log-weights in falling order, of shape ``(M + 1, N)``: M of the tail and the next.

    Returns:
        k, of shape ``(N,)``.
    """
    size = len(tail) - 1
    if size < LEAST_TAIL:
        return tail.new_full(tail.shape[1:], math.nan)
    largest, cutoff = tail[0], tail[-1]
    # Excesses over the cutoff in units of the largest weight, in rising order: (N, M).
    excess = ((tail[:-1] - largest).exp() * -torch.expm1(cutoff - tail[:-1])).flip(0).T
    # The rounding of single precision: a tail that it makes is of no account for the mean.
    constant = largest - cutoff <= 1e-3
    quartile = excess[:, int(size / 4 + 0.5) - 1]
    grid = 30 + int(math.sqrt(size))
    steps = torch.arange(1, grid + 1, dtype=tail.dtype, device=tail.device) - 0.5
    b = 1 / excess[:, -1:] + (1 - (grid / steps).sqrt()) / (3 * quartile[:, None])  # (N, grid)
    k = torch.log1p(-b[..., None] * excess[:, None]).mean(-1)
    posterior = (size * ((-b / k).log() - k - 1)).softmax(-1)
    shape = torch.log1p(-(b * posterior).sum(-1, keepdim=True) * excess).mean(-1)
    shape = (size * shape + 5) / (size + 10)  # a weak prior about 1/2
    # The quartile as a logarithm, which no underflow hides; by that the fit has no number.
    above = tail[size - int(size / 4 + 0.5)] > cutoff
    shape = torch.where(above, shape.nan_to_num(nan=math.inf), math.nan)
    shape = torch.where(cutoff.isneginf() & ~above, math.inf, shape)
    return torch.where(constant & ~largest.isneginf(), -math.inf, shape)
