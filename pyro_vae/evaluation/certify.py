"""Certificates: bounds on the error of an estimator of log p(x), on simulated data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.blocks import EXAMPLES, blocks
from pyro_vae.evaluation.estimators import Estimator, parse
from pyro_vae.evaluation.inputs import mean_and_stderr
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.evaluation.memory_limit import MaxBytes, check_max_bytes
from pyro_vae.evaluation.simulation import simulated
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.context import Batch, Context
from pyro_vae.utils.modules import device_of, evaluating, without_gradients
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.utils.turns import one_at_a_time


@dataclass(frozen=True, repr=False)
class Certificate:
    r"""Stochastic lower and upper bounds of log p(x) on simulated data, in nats.

    .. math:: E[\text{lower}] \le E[\log p(x)] \le E[\text{upper}]

    Attributes:
        x: The simulated data, shape ``(N, *x_shape)``.
        lower: The estimates of log p(x), shape ``(N,)``.
        upper: The upper bounds of log p(x), shape ``(N,)``.
        lower_mean, upper_mean: Their means over examples.
        gap, gap_error: The mean of ``upper - lower`` and its standard error over examples. On
            average, the estimator is below log p(x) by no more than the expected gap.
        num_samples: K, the number of weights of each example.
        estimator: The name of the estimator.
        seed: The seed of data and noise, or None.

    Example:
        >>> from pyro_vae.evaluation import certify
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = certify(vae, num_examples=7, num_samples=8, estimator="prior", seed=0)
        >>> result.lower.shape, result.upper.shape
        (torch.Size([7]), torch.Size([7]))
        >>> abs(result.upper_mean - result.lower_mean - result.gap) < 1e-6
        True
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    lower_mean: float
    upper_mean: float
    gap: float
    gap_error: float
    num_samples: int
    estimator: str
    seed: int | None

    def __repr__(self) -> str:
        return summary(self)


@one_at_a_time
def certify(
    vae: Pair,
    num_examples: int = 64,
    num_samples: int = 16,
    *,
    estimator: str | Estimator = "ais",
    x: Batch | None = None,
    context: Context | None = None,
    seed: int | None = None,
    max_bytes: MaxBytes = "auto",
) -> Certificate:
    r"""Bounds the error of an estimator of log p(x), on data simulated from the model.

    .. math:: E\Big[\log \frac1K \sum_{k=1}^K w_k\Big] \le \log p(x)
        \le E\Big[\log \frac1K \Big(w^* + \sum_{k=2}^K w_k\Big)\Big]

    If x and z are drawn jointly from the model, then z is an exact draw of the posterior. Its
    weight :math:`w^*` in place of one of the estimator's own makes an upper bound. For AIS, the
    weight is that of a reversed chain (bidirectional Monte Carlo). The bounds hold for simulated
    data. They show how accurate an estimator and its settings are for this model, and do not
    estimate log p(x) of real data.

    Source: Grosse, Ghahramani and Adams (2015), arXiv 1511.02543, section 3; Wu et al. (2017),
    arXiv 1611.04273, section 4.2.

    Arguments:
        vae: A VAE or any :class:`Pair`; it is evaluated in eval mode.
        num_examples: N, the number of simulated examples.
        num_samples: K, the number of weights of each example.
        estimator: A name or an estimator, as in :func:`log_likelihood`, except ``"exact"``.
        x: Examples of a pair that is no VAE, or a tuple of them and their context. The simulated
            data take their shape and context, in place of `num_examples`; their values are not
            used.
        context: What is given with the simulated data of a VAE, tensors with one row for each of
            the `num_examples` examples.
        seed: Fixes data and noise, and leaves torch's global generator as it was; None draws from
            that generator.
        max_bytes: A bound on the bytes of one step, as in :func:`log_likelihood`.

    Returns:
        The simulated data, both bounds for each example, and their gap, in nats.

    Raises:
        TypeError: `vae` is not a pair, or an argument has the wrong type.
        ValueError: An argument is out of range, or the estimator does not work for the pair. `x`
            is missing for a pair that is no VAE; its model observes something else than x, or the
            distribution of x depends on x itself.

    Example:
        >>> from pyro_vae.evaluation import certify
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = certify(vae, num_examples=7, num_samples=4, estimator="ais:5:2", seed=0)
        >>> result.x.shape, result.estimator
        (torch.Size([7, 16]), 'ais')
    """
    check_pair(vae)
    check_count("num_examples", num_examples)
    check_count("num_samples", num_samples)
    check_max_bytes(max_bytes)
    check_seed(seed)
    chosen = parse(estimator)
    if chosen is None:
        raise ValueError(
            'estimator: got "exact", which has no error to bound, expected one that takes samples'
        )
    lowers, uppers = [], []
    with without_gradients(), evaluating(vae):
        with seeded(seed, _SIMULATED, device=device_of(vae)):
            batch, z = simulated(vae, num_examples, x, context)
        densities = LogDensities(vae.model, vae.guide, batch, marginal=True)
        for block in blocks(densities, batch, seed, max_bytes, desc="certificate"):
            first = block.index * EXAMPLES
            exact = densities.part(z, slice(None), slice(first, first + len(block.x)))
            forward, backward = chosen.both(block, num_samples, exact)
            log_w = torch.cat(list(forward)).double()
            reverse = torch.cat((backward.double(), log_w[1:]))
            lowers.append(log_w.logsumexp(0) - math.log(num_samples))
            uppers.append(reverse.logsumexp(0) - math.log(num_samples))
    lower, upper = torch.cat(lowers), torch.cat(uppers)
    gap, gap_error = mean_and_stderr(upper - lower)
    return Certificate(
        batch[0],
        lower,
        upper,
        lower.mean().item(),
        upper.mean().item(),
        gap,
        gap_error,
        num_samples,
        chosen.name,
        seed,
    )


_SIMULATED = 2**31  # the random stream of the data, which no block has
