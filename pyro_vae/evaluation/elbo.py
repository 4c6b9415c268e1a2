"""The ELBO of each example and its two terms, with standard errors."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.contracts import call
from pyro_vae.distributions import check_analytic_kl
from pyro_vae.evaluation.blocks import blocks
from pyro_vae.evaluation.inputs import check_arguments, data_hash, opened, over_examples
from pyro_vae.evaluation.memory_limit import MaxBytes
from pyro_vae.evaluation.sharing import sharing
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils import html
from pyro_vae.utils.checks import check_count
from pyro_vae.utils.context import Batch
from pyro_vae.utils.modules import device_of
from pyro_vae.utils.processes import together
from pyro_vae.utils.tables import counted, summary
from pyro_vae.utils.turns import one_at_a_time
from pyro_vae.vae import VAE


@dataclass(frozen=True, repr=False)
class Elbo:
    r"""The ELBO of each example and its two terms, in nats: ``values = -(reconstruction + kl)``.

    A standard error over one example is NaN, and so is a Monte Carlo error from one sample.

    Attributes:
        values: Estimates of :math:`E_q[\log p(x|z)] - KL(q, p)`, shape ``(N,)``.
        reconstruction: Estimates of :math:`-E_q[\log p(x|z)]`, shape ``(N,)``.
        kl: :math:`KL(q(z|x), p(z))`, exact or estimated, shape ``(N,)``.
        mean, stderr, mc_error: The mean of `values` over examples, its standard error over
            examples, and its Monte Carlo standard error for these examples.
        reconstruction_mean, reconstruction_stderr, reconstruction_mc_error: The same for
            `reconstruction`.
        kl_mean, kl_stderr, kl_mc_error: The same for `kl`.
        num_samples: The number of samples of z for each example.
        seed: The seed of the noise, or None.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = elbo(vae, torch.ones(7, 16), num_samples=10, seed=0)
        >>> torch.allclose(result.values, -(result.reconstruction + result.kl))
        True
    """

    values: Tensor
    reconstruction: Tensor
    kl: Tensor
    mean: float
    stderr: float
    mc_error: float
    reconstruction_mean: float
    reconstruction_stderr: float
    reconstruction_mc_error: float
    kl_mean: float
    kl_stderr: float
    kl_mc_error: float
    num_samples: int
    seed: int | None

    def __repr__(self) -> str:
        return summary(self)

    def _repr_html_(self) -> str:
        terms = {"ELBO": "", "reconstruction": "reconstruction_", "KL": "kl_"}
        return html.block(
            f"ELBO = −(reconstruction + KL) of {counted(self)}",
            html.estimates(self, terms),
            html.details("all numbers", summary(self)),
        )


@one_at_a_time
def elbo(
    vae: Pair,
    x: Batch,
    num_samples: int = 100,
    *,
    kl: Literal["sampled", "analytic"] = "sampled",
    seed: int | None = None,
    max_bytes: MaxBytes = "auto",
    shared: bool = False,
) -> Elbo:
    r"""Estimates the ELBO of each example, and its reconstruction and KL terms.

    .. math:: \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - KL(q(z|x), p(z))

    Discrete latents of the guide are drawn as all others, unlike in :func:`log_likelihood`. Those
    of the model alone are summed out of p(z) and p(x, z), and :math:`p(x|z) = p(x, z) / p(z)`.

    Source: Kingma and Welling (2014), section 2.3.

    Arguments:
        vae: A VAE or any :class:`Pair`; it is evaluated in eval mode.
        x: Data of shape ``(N, *x_shape)`` on the likelihood's support, or a tuple of them and
            their context; the ELBO is then one of log p(x|c).
        num_samples: The number of samples of z for each example.
        kl: ``"sampled"`` estimates the KL from the same samples; ``"analytic"`` takes its closed
            form. That of several latent sites is conditional on samples of the sites before it.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.
        max_bytes: A bound on the bytes that one step of the prior and the likelihood allocates. It
            changes the numbers by float rounding only. ``"auto"`` is half of the memory that a GPU
            has left, and 2**28 on a CPU. The posterior takes 64 examples at a time.
        shared: Whether the processes of ``torch.distributed`` share the examples, see
            :func:`log_likelihood`.

    Returns:
        The estimates for each example in nats, shape ``(N,)``, and their means and errors.

    Raises:
        TypeError: `vae` is not a pair, or x has another dtype.
        ValueError: x does not fit the pair or is off the likelihood's support, the KL has no
            closed form, of which there is none for a latent that is summed out; or an argument is
            out of range.
        FloatingPointError: A log-probability is NaN.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = elbo(vae, torch.ones(7, 16), num_samples=10, kl="analytic", seed=0)
        >>> result.values.shape, result.num_samples
        (torch.Size([7]), 10)
    """
    if kl not in ("sampled", "analytic"):
        raise ValueError(f'kl: got {kl!r}, expected "sampled" or "analytic"')
    check_count("num_samples", num_samples)
    given = check_arguments(x, seed, max_bytes)
    check_pair(vae)
    rows = sharing(shared, device_of(vae), vae)
    rows.check_alike("x", data_hash(given))
    rows.check_alike("num_samples, kl, seed", (num_samples, kl, seed))
    with together(rows.processes, "elbo"), opened(vae, x) as (densities, batch):
        noise = rows.seed(seed)
        for block in blocks(densities, batch, noise, max_bytes, "ELBO", takes=rows.takes):
            sums: Tensor | float = 0.0
            # The KL of a VAE is the same for all samples; that of several sites may not be.
            closed = kl == "analytic" and not isinstance(vae, VAE)
            for log_p_x, log_ratio in block.samples(num_samples, closed_kl=closed):
                negative = torch.stack((-log_p_x, log_ratio, log_ratio - log_p_x)).double()
                sums = sums + torch.stack((negative.sum(1), negative.square().sum(1)))
            assert isinstance(sums, Tensor)
            mean = sums[0] / num_samples
            # The sum of squared deviations, and from it the variance of the mean of K samples.
            spread = (sums[1] - num_samples * mean.square()).clamp(min=0)
            variance = (
                spread / (num_samples * (num_samples - 1))
                if num_samples > 1
                else torch.full_like(spread, math.nan)
            )
            if kl == "analytic" and isinstance(vae, VAE):
                context = block.batch[1:]
                q_z = call(vae, "posterior", block.x, context=context)
                p_z = call(vae, "prior", context=context)
                check_analytic_kl(q_z, p_z)
                mean[1] = kl_divergence(q_z, p_z).double()
                mean[2] = mean[0] + mean[1]
                variance[1], variance[2] = 0.0, variance[0]
            rows.own.append(torch.cat((mean, variance)))
    reconstruction, divergence, cost, *variances = torch.cat(rows.joined(), dim=1)
    return Elbo(
        -cost,
        reconstruction,
        divergence,
        *over_examples(-cost, variances[2]),
        *over_examples(reconstruction, variances[0]),
        *over_examples(divergence, variances[1]),
        num_samples=num_samples,
        seed=seed,
    )
