"""Certificates: bounds on the error of an estimator of log p(x), on simulated data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.contracts import call
from pyro_vae.evaluation.blocks import EXAMPLES, blocks
from pyro_vae.evaluation.estimators import Estimator, parse
from pyro_vae.evaluation.inputs import mean_and_stderr
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.modules import device_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.vae import VAE, check_vae


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


def certify(
    vae: VAE,
    num_examples: int = 64,
    num_samples: int = 16,
    *,
    estimator: str | Estimator = "ais",
    seed: int | None = None,
    max_bytes: int = 2**28,
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
        vae: The VAE; it is evaluated in eval mode.
        num_examples: N, the number of simulated examples.
        num_samples: K, the number of weights of each example.
        estimator: A name or an estimator, as in :func:`log_likelihood`, except ``"exact"``.
        seed: Fixes data and noise, and leaves torch's global generator as it was; None draws from
            that generator.
        max_bytes: A bound on the bytes of one step, as in :func:`log_likelihood`.

    Returns:
        The simulated data, both bounds for each example, and their gap, in nats.

    Raises:
        TypeError: `vae` is not a VAE, or an argument has the wrong type.
        ValueError: An argument is out of range, or the estimator does not work for the VAE.

    Example:
        >>> from pyro_vae.evaluation import certify
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = certify(vae, num_examples=7, num_samples=4, estimator="ais:5:2", seed=0)
        >>> result.x.shape, result.estimator
        (torch.Size([7, 16]), 'ais')
    """
    check_vae(vae)
    check_count("num_examples", num_examples)
    check_count("num_samples", num_samples)
    check_count("max_bytes", max_bytes)
    check_seed(seed)
    chosen = parse(estimator)
    if chosen is None:
        raise ValueError(
            'estimator: got "exact", which has no error to bound, expected one that takes samples'
        )
    lowers, uppers = [], []
    with torch.no_grad(), evaluating(vae):
        with seeded(seed, _SIMULATED, device=device_of(vae)):
            z = call(vae, "prior").sample((num_examples,))
            x = call(vae, "likelihood", z).sample()
        densities = LogDensities(vae.model, vae.guide, (x,))
        for block in blocks(densities, (x,), seed, max_bytes, desc="certificate"):
            first = block.index * EXAMPLES
            exact = {"z": z[None, first : first + len(block.x)]}
            forward, backward = chosen.both(block, num_samples, exact)
            log_w = torch.cat(list(forward)).double()
            reverse = torch.cat((backward.double(), log_w[1:]))
            lowers.append(log_w.logsumexp(0) - math.log(num_samples))
            uppers.append(reverse.logsumexp(0) - math.log(num_samples))
    lower, upper = torch.cat(lowers), torch.cat(uppers)
    gap, gap_error = mean_and_stderr(upper - lower)
    return Certificate(
        x,
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
