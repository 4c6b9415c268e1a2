"""Certificates: what an estimator of log p(x) is worth, on data that the model has made."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.contracts import call
from pyro_vae.evaluation import estimators
from pyro_vae.evaluation.blocks import EXAMPLES, blocks
from pyro_vae.evaluation.estimators import Estimator
from pyro_vae.evaluation.inputs import mean_and_stderr
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.modules import device_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.vae import VAE, check_vae


@dataclass(frozen=True, repr=False)
class Certificate:
    r"""Two bounds of log p(x) of simulated data, between which it lies in the mean, in nats.

    Attributes:
        x: The simulated data, shape ``(N, *x_shape)``.
        lower: The estimator's values, shape ``(N,)``; in the mean below log p(x).
        upper: Values that are above it in the mean, shape ``(N,)``.
        lower_mean, upper_mean: Over examples.
        gap, gap_error: Mean of ``upper - lower`` and its standard error: what the estimator is
            below log p(x) is no more in the mean.
        num_samples: K.
        estimator: Its name.
        seed: What fixed data and noise, or None.
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
    r"""How far an estimator can be trusted, on data that the model itself has made.

    For x drawn together with its z, that z is an exact draw of the posterior. Among K weights one
    that begins there makes :math:`\log \frac1K \sum_k w_k` an upper bound in the mean, where K of
    the estimator's own make it a lower one: for AIS the chain runs backward (bidirectional Monte
    Carlo). It holds for simulated data, so it says what a setting of the estimator is worth for
    this model; it is no estimate of log p(x) of real data.

    Arguments:
        vae: The VAE, in eval mode.
        num_examples: N, of simulated x.
        num_samples: K.
        estimator: As of :func:`log_likelihood`, but the exact one.
        seed: Fixes data and noise and leaves torch's global generator as it was.
        max_bytes: As of :func:`log_likelihood`.

    Raises:
        TypeError, ValueError: An argument is out of range; the VAE does not serve the estimator.

    Source: Grosse, Ghahramani and Adams (2015), arXiv 1511.02543, section 3; Wu et al. (2017),
    arXiv 1611.04273, section 4.2.
    """
    check_vae(vae)
    check_count("num_examples", num_examples)
    check_count("num_samples", num_samples)
    check_count("max_bytes", max_bytes)
    check_seed(seed)
    chosen = estimators.parse(estimator)
    if chosen is None:
        raise ValueError('estimator: got "exact", which has no error to certify')
    lowers, uppers = [], []
    with torch.no_grad(), evaluating(vae):
        with seeded(seed, _SIMULATED, device=device_of(vae)):
            z = call(vae, "prior").sample((num_examples,))
            x = call(vae, "likelihood", z).sample()
        densities = LogDensities(vae.model, vae.guide, x)
        for block in blocks(densities, x, seed, max_bytes, desc="certificate"):
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


_SIMULATED = 2**31  # a random stream apart from those of blocks
