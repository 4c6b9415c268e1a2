"""Imputation: what is not observed of x, given what is, by importance weights of the latents."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pyro_vae.distributions import Columns, Observed, describe_support, takes_nan
from pyro_vae.evaluation.blocks import Block, blocks
from pyro_vae.evaluation.importance_weights import Weights
from pyro_vae.evaluation.inputs import check_arguments, opened
from pyro_vae.evaluation.log_densities import Latents, LogDensities
from pyro_vae.evaluation.memory_limit import MaxBytes
from pyro_vae.evaluation.psis import khat_threshold
from pyro_vae.evaluation.result import UnreliableWeights
from pyro_vae.evaluation.simulation import observed_site
from pyro_vae.pair import Pair
from pyro_vae.utils.checks import check_count, check_number, check_values, plain
from pyro_vae.utils.context import Batch, Examples, rows
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.utils.turns import one_at_a_time
from pyro_vae.utils.warn import warn

_TOGETHER = 8  # samples whose x is drawn in one call, so that a stream always gives the same draws
_SORTED = 8  # parts in which the draws that are kept are sorted
_DRAWN, _RESAMPLED = 2**31, 2**31 + 1  # random streams of a block, beside those of its samples


@dataclass(frozen=True, repr=False)
class Imputation:
    r"""What is not observed of x, given what is. Observed entries are as they were given.

    Attributes:
        mean: :math:`E[x_{mis}|x_{obs}]`, of classes as numbers, shape ``(N, *x_shape)``.
        point: The most probable class in columns that are classes, and the mean elsewhere, as
            :meth:`VAE.decode` has them, shape ``(N, *x_shape)``.
        quantiles: The quantiles of each entry's distribution given :math:`x_{obs}`, shape
            ``(len(levels), N, *x_shape)``.
        draws: Joint draws of all entries that are not observed, shape ``(num_draws, N,
            *x_shape)``.
        ess: The effective sample size of the weights, from 1 to K, shape ``(N,)``; 0 if all are
            zero, and the other numbers of the example are then NaN where it has holes.
        khat: The shape of the weights' tail, as that of :class:`LogLikelihood`, shape ``(N,)``.
        levels: The levels of the quantiles.
        num_samples: K, the number of samples of the latents.
        seed: The seed of the noise, or None.

    Example:
        >>> from pyro_vae.evaluation import impute
        >>> likelihood = likelihoods.Observed(likelihoods.Gaussian(networks.MLP(2, (8,), (2, 3))))
        >>> encoder = networks.Observed(networks.MLP((2, 3), (8,), 4))
        >>> vae = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(encoder))
        >>> x = torch.tensor([[0.5, float("nan"), 1.0]])
        >>> result = impute(vae, x, num_samples=100, num_draws=5, seed=0)
        >>> result.mean[0, 0].item(), result.quantiles.shape, result.draws.shape
        (0.5, torch.Size([3, 1, 3]), torch.Size([5, 1, 3]))
    """

    mean: Tensor
    point: Tensor
    quantiles: Tensor
    draws: Tensor
    ess: Tensor
    khat: Tensor
    levels: tuple[float, ...]
    num_samples: int
    seed: int | None

    def __repr__(self) -> str:
        return summary(self)


@one_at_a_time
def impute(
    vae: Pair,
    x: Batch,
    num_samples: int = 1000,
    *,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    num_draws: int = 0,
    seed: int | None = None,
    max_bytes: MaxBytes = "auto",
) -> Imputation:
    r"""Imputes the entries of x that are NaN, by self-normalized importance weights.

    .. math:: E[h(x_{mis})|x_{obs}] \approx \sum_k \bar w_k h_k, \quad
        \bar w_k \propto \frac{p(x_{obs}, z_k)}{q(z_k|x_{obs})}, \quad z_k \sim q(z|x_{obs})

    The mean takes :math:`h_k = E[x_{mis}|z_k]`, of classes as numbers, and where the likelihood
    has no finite mean a draw of :math:`p(x_{mis}|z_k)`. The most probable class is that of the
    average of :math:`p(x_{mis}|z_k)`. Quantiles are weighted quantiles of such
    draws: the least draw up to which the weights reach the level. Joint draws are drawn among
    them, in proportion to the weights. Where :math:`x_{mis}` is a latent itself, as in
    :class:`~pyro_vae.models.NotMissingAtRandom`, its samples take the place of draws and means.

    Samples are drawn and scored in two passes, and the draws of so many entries are kept at a time
    as `max_bytes` allows. Data without NaN are given back as they are.

    Source: Mattei and Frellsen (2019), arXiv 1812.02633, section 3.2.

    Arguments:
        vae: A VAE or any :class:`Pair` whose x may have NaN, as by ``likelihoods.Observed``; it is
            evaluated in eval mode.
        x: Data of shape ``(N, *x_shape)``, or a tuple of them and their context.
        num_samples: K, the number of samples of the latents for each example.
        quantiles: The levels of the quantiles, from 0 to 1.
        num_draws: The number of joint draws.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.
        max_bytes: A bound on the bytes of one step, as in :func:`log_likelihood`, and of the draws
            that are kept. It changes the numbers by float rounding only. What draws x takes 64
            examples and 8 samples at a time.

    Returns:
        The means, quantiles and draws of x with its holes filled, and how good the weights are.

    Raises:
        TypeError: `vae` is not a pair, or an argument has the wrong type.
        ValueError: x does not fit the pair, the pair takes no NaN, or an argument is out of range.
        FloatingPointError: A log-probability is NaN.

    Warns:
        UnreliableWeights: The `khat` of some examples with NaN is above its threshold, or there
            are too few samples for a k-hat.

    Example:
        >>> from pyro_vae.evaluation import impute
        >>> likelihood = likelihoods.Observed(likelihoods.Bernoulli(networks.MLP(2, (8,), 3)))
        >>> encoder = networks.Observed(networks.MLP((2, 3), (8,), 4))
        >>> vae = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(encoder))
        >>> x = torch.tensor([[0.0, 1.0, float("nan")]])
        >>> impute(vae, x, num_samples=100, seed=0).mean.isfinite().all()
        tensor(True)
    """
    check_count("num_samples", num_samples)
    check_count("num_draws", num_draws, 0)
    check_values("quantiles", quantiles)
    for level in quantiles:
        check_number("quantiles", level, 0, 1)
    levels = tuple(float(plain(level)) for level in quantiles)
    given = check_arguments(x, seed, max_bytes)
    parts: list[tuple[Tensor, ...]] = []
    with opened(vae, given) as (densities, batch):
        site = _site_with_nan(densities, batch)
        # Both passes repeat the noise.
        noise = int(torch.randint(2**32, (), device="cpu")) if seed is None else seed
        latent = getattr(vae, "missing_site", None)
        for block in blocks(densities, batch, noise, max_bytes, "imputation", num_samples):
            pieces = partial(_pieces, block, site, latent, num_samples)
            parts.append(_imputed(block, pieces, num_samples, levels, num_draws))
    mean, point, ess, khat = (torch.cat([part[index] for part in parts]) for index in (0, 1, 4, 5))
    at_levels, draws = (torch.cat([part[index] for part in parts], 1) for index in (2, 3))
    found = mean, point, at_levels, draws, ess, khat
    result = Imputation(*found, levels, int(num_samples), seed)
    _warn_of(result, torch.isnan(batch[0]).flatten(1).any(1))
    return result


def _site_with_nan(densities: LogDensities, batch: Examples) -> str:
    """The site of x; raises ValueError unless its support has NaN."""
    one = rows(batch, slice(1))
    with seeded(0, device=batch[0].device):
        site = observed_site(densities, batch)
        z, _ = densities.draw(one, 1)
        support = densities.distributions("model", one, z)[site].support
        shape = densities.observations(one)[site].shape
    if not takes_nan(support):
        raise ValueError(
            f'vae: observes values on {describe_support(support)} at the site "{site}", expected '
            "a support with NaN, as of likelihoods.Observed(likelihood): it has nothing to impute"
        )
    if shape != one[0].shape:
        raise ValueError(
            f'vae: observes values of shape {tuple(shape)} at the site "{site}" for x of shape '
            f"{tuple(one[0].shape)}, expected x itself"
        )
    return site


Pieces = Callable[[], Iterator[tuple[int, Tensor, Tensor, Tensor]]]
"""Gives the first sample, and means and draws of x, of shape ``(samples, N, numbers)``, and the
probabilities of classes, of shape ``(samples, N, numbers * classes)``."""


def _pieces(
    block: Block, site: str, latent: str | None, num_samples: int
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yields what x is at each sample of the latents, see `Pieces`, the same at each call."""
    densities, every = block.densities, slice(None)
    for start, z, _ in block.draws(num_samples):
        for first in range(0, len(next(iter(z.values()))), _TOGETHER):
            some = densities.part(z, slice(first, first + _TOGETHER), every)
            if latent is not None:
                found = some[latent], some[latent], _no_classes(some[latent])
            else:
                with block.stream(_DRAWN, start + first):
                    found = _of_x(densities, site, block.batch, some)
            axis = densities.example_axis
            mean, drawn, probs = (value.movedim(axis, 1).flatten(2) for value in found)
            yield start + first, mean, drawn, probs


def _no_classes(x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape, 0)


def _of_x(
    densities: LogDensities, site: str, batch: Examples, z: Latents
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of x at each sample, a draw, and the probabilities of its classes.

    A draw stands for a mean that is not finite.
    """
    p_x = densities.distributions("model", batch, z, densities.drawn(batch, z))[site]
    drawn = p_x.sample()
    columns = p_x.base if isinstance(p_x, Observed) else p_x
    probs = columns.class_probs if isinstance(columns, Columns) else _no_classes(drawn)
    try:
        mean = p_x.expectation if isinstance(p_x, Observed) else p_x.mean
    except NotImplementedError:
        return drawn, drawn, probs
    return torch.where(torch.isfinite(mean), mean, drawn), drawn, probs


def _imputed(
    block: Block, pieces: Pieces, num_samples: int, levels: Sequence[float], num_draws: int
) -> tuple[Tensor, ...]:
    """What an `Imputation` has of a block of examples, but for its settings."""
    weights, logs = Weights(num_samples), []
    for log_p_x, log_ratio in block.samples(num_samples):
        log_w = log_p_x - log_ratio
        weights.add(log_w)
        logs.append(log_w.double())
    statistics = weights.statistics()
    share = torch.cat(logs).softmax(0)  # NaN where all weights are zero
    lost = torch.isnan(share[0])
    x = block.x.flatten(1)
    example, number = torch.isnan(x).nonzero(as_tuple=True)
    mean = torch.zeros_like(x, dtype=torch.float64)
    by_class: Tensor | float = 0.0
    draws = x.repeat(num_draws, 1, 1)
    at_levels = x.new_empty(len(levels), len(example))
    chosen = _resampled(block, share.masked_fill(lost, 1.0), num_draws)
    # Half of the memory keeps draws of some entries, and the other half sorts a few of them.
    keep = max(1, block.max_bytes // (2 * num_samples * x.element_size()))
    for first in range(0, len(example), keep):
        own = slice(first, first + keep)
        kept = x.new_empty(num_samples, len(example[own]))
        for start, means, drawn, probs in pieces():
            here = slice(start, start + len(drawn))
            kept[here] = drawn[:, example[own], number[own]]
            if first == 0:
                weight = share[here].unsqueeze(-1)
                mean += (weight * means.double()).sum(0)
                by_class = by_class + (weight * probs.double()).sum(0)
                draw, of = ((chosen >= start) & (chosen < here.stop)).nonzero(as_tuple=True)
                draws[draw, of] = drawn[chosen[draw, of] - start, of]
        at_levels[:, own] = _quantiles(kept, share, example[own], levels)
    quantiles = x.repeat(len(levels), 1, 1)
    quantiles[:, example, number] = at_levels
    holes, shape = torch.isnan(x), block.x.shape
    mean = torch.where(holes, mean.to(x.dtype), x)
    draws = torch.where(holes, draws.masked_fill(lost.unsqueeze(-1), math.nan), x)
    found = mean, torch.where(holes, _point(mean, by_class), x), quantiles, draws
    made = (value.reshape(*value.shape[:-2], *shape) for value in found)
    return *made, statistics.ess, statistics.khat


def _point(mean: Tensor, by_class: Tensor | float) -> Tensor:
    """The most probable classes of shape ``(N, numbers)`` where there are some, else the means."""
    if not isinstance(by_class, Tensor) or not by_class.numel():
        return mean
    probs = by_class.unflatten(1, (mean.shape[1], -1))
    return torch.where(probs.sum(-1) > 0, probs.argmax(-1).to(mean.dtype), mean)


def _resampled(block: Block, share: Tensor, num_draws: int) -> Tensor:
    """Numbers of samples in proportion to their weights, shape ``(num_draws, N)``."""
    if not num_draws:
        return torch.empty(0, share.shape[1], dtype=torch.long, device=share.device)
    with block.stream(_RESAMPLED):
        return torch.multinomial(share.T, num_draws, replacement=True).T


def _quantiles(kept: Tensor, share: Tensor, example: Tensor, levels: Sequence[float]) -> Tensor:
    """Weighted quantiles of draws of shape ``(K, entries)``, each of some example's entries."""
    found = kept.new_empty(len(levels), kept.shape[1])
    some = max(1, kept.shape[1] // _SORTED)
    for first in range(0, kept.shape[1], some):
        own = slice(first, first + some)
        ordered, order = kept[:, own].sort(0)
        reached = share[:, example[own]].gather(0, order).cumsum(0)
        reached = reached / reached[-1]
        for row, level in enumerate(levels):
            # At level 0, draws of weight zero are left out too.
            index = (reached < max(level, 1e-300)).sum(0, keepdim=True).clamp(max=len(kept) - 1)
            found[row, own] = ordered.gather(0, index)[0].masked_fill(
                torch.isnan(reached[-1]), math.nan
            )
    return found


def _warn_of(result: Imputation, has_holes: Tensor) -> None:
    """Warns if the weights of some examples with holes are unreliable."""
    threshold, count = khat_threshold(result.num_samples), int(has_holes.sum())
    if not count:
        return
    if math.isnan(threshold):
        warn(
            f"{result.num_samples} samples are too few for a k-hat, which takes 21 or more: it is "
            "unknown how far the imputations are off",
            UnreliableWeights,
        )
        return
    doubtful = int((~(result.khat <= threshold) & has_holes).sum())
    if doubtful:
        warn(
            f"k-hat is above {threshold:.2f}, or undefined, for {doubtful} of {count} examples "
            f"with NaN: their weights are too heavy-tailed for {result.num_samples} samples; use "
            "more samples, or a better guide",
            UnreliableWeights,
        )
