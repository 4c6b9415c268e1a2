"""Criticism of trained VAEs: which latents are used, and whether replications are like x."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.contracts import call
from pyro_vae.evaluation.blocks import EXAMPLES
from pyro_vae.evaluation.inputs import opened
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.vae import VAE


@dataclass(frozen=True, repr=False)
class ActiveUnits:
    r"""Which latent dimensions say something of x.

    Attributes:
        statistic: :math:`A_u = \mathrm{Var}_x(E_{q(z|x)}[z_u])`, shape ``(z_dim,)``.
        active: Which are above the threshold, shape ``(z_dim,)``.
        count: How many.
        threshold: The least statistic of an active one.
    """

    statistic: Tensor
    active: Tensor
    count: int
    threshold: float

    def __repr__(self) -> str:
        return summary(self, "latents")


def active_units(
    vae: VAE, x: Tensor, *, threshold: float = 0.01, seed: int | None = None
) -> ActiveUnits:
    r"""The latent dimensions whose posterior mean moves with x.

    .. math:: A_u = \mathrm{Var}_x\big(E_{q(z|x)}[z_u]\big) > 0.01

    It takes :meth:`VAE.embed` for the mean: where a posterior has none in closed form, the average
    of 32 draws, whose noise adds a 32nd of the posterior's variance.

    Arguments:
        vae: The VAE, in eval mode.
        x: Data of shape ``(N, *x_shape)``, two or more.
        threshold: The least statistic of an active dimension.
        seed: Fixes what noise there is and leaves torch's global generator as it was.

    Raises:
        TypeError, ValueError: x does not fit the VAE, or is one example.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 5.2.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold: got {threshold!r}, expected a number from 0 up")
    with opened(vae, x) as (_, x):
        if len(x) < 2:
            raise ValueError("x: got one example, expected two or more, over which to vary")
        with seeded(seed, device=x.device):
            means = torch.cat([vae.embed(part) for part in x.split(1024)])
    statistic = means.double().var(0)
    active = statistic > threshold
    return ActiveUnits(statistic, active, int(active.sum()), float(threshold))


@dataclass(frozen=True, repr=False)
class PredictiveCheck:
    r"""A statistic of the data beside that of replications from their posteriors.

    Attributes:
        observed: T(x) of each example, shape ``(N,)``.
        replicated: T of each replication, shape ``(num_samples, N)``.
        p_values: For each example the share of replications with a greater T, and half of those
            with the same, shape ``(N,)``.
        p_value: The same of the mean of T over all examples.
    """

    observed: Tensor
    replicated: Tensor
    p_values: Tensor
    p_value: float

    def __repr__(self) -> str:
        return summary(self)


def posterior_predictive(
    vae: VAE,
    x: Tensor,
    statistic: Callable[[Tensor], Tensor],
    num_samples: int = 100,
    *,
    seed: int | None = None,
) -> PredictiveCheck:
    r"""Whether the model, given x, makes data like x, as far as a statistic can tell.

    Replications :math:`\tilde x \sim p(\tilde x|z)` with z of the guide, beside the data that the
    guide saw: values near 0 or 1 say that the model does not make what the statistic looks at. As
    the data are used twice, p-values of a right model gather around 1/2.

    Arguments:
        vae: The VAE, in eval mode.
        x: Data of shape ``(N, *x_shape)``.
        statistic: T, from ``(*batch, *x_shape)`` to ``(*batch,)``: a function of one x.
        num_samples: Replications of each example.
        seed: Fixes the noise and leaves torch's global generator as it was.

    Raises:
        TypeError, ValueError: x does not fit the VAE; T gives another shape.

    Source: Gelman, Meng and Stern (1996), Statistica Sinica 6, section 2.
    """
    check_count("num_samples", num_samples)
    check_seed(seed)
    observed, replicated = [], []
    with opened(vae, x) as (_, x):
        for index, part in enumerate(x.split(EXAMPLES)):
            observed.append(_statistic(statistic, part, part.shape[:1]))
            rows = []
            with seeded(seed, index, device=x.device):
                q_z = call(vae, "posterior", part)
                for _ in range(num_samples):
                    made = call(vae, "likelihood", q_z.sample()).sample()
                    rows.append(_statistic(statistic, made, part.shape[:1]))
            replicated.append(torch.stack(rows))
    own, other = torch.cat(observed), torch.cat(replicated, 1)
    return PredictiveCheck(
        own, other, _share_above(other, own), _share_above(other.mean(1), own.mean()).item()
    )


def _statistic(statistic: Callable[[Tensor], Tensor], x: Tensor, shape: torch.Size) -> Tensor:
    value = statistic(x)
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"statistic: gave {got} for x of shape {tuple(x.shape)}, expected {tuple(shape)}: one "
            "number for each example"
        )
    return value.double()


def _share_above(replicated: Tensor, observed: Tensor) -> Tensor:
    above, same = replicated > observed, replicated == observed
    return (above.double() + 0.5 * same.double()).mean(0)
