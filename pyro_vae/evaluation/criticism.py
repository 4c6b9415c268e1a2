"""Criticism of trained VAEs: active latent units, and posterior predictive checks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.contracts import call
from pyro_vae.evaluation.blocks import EXAMPLES
from pyro_vae.evaluation.inputs import opened
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.context import Batch
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.vae import VAE


@dataclass(frozen=True, repr=False)
class ActiveUnits:
    r"""The latent dimensions that depend on x.

    Attributes:
        statistic: :math:`A_u = \mathrm{Var}_x(E_{q(z|x)}[z_u])`, shape ``(z_dim,)``.
        active: Whether each dimension's statistic is above the threshold, shape ``(z_dim,)``.
        count: The number of active dimensions.
        threshold: The statistic above which a dimension is active.

    Example:
        >>> from pyro_vae.evaluation import active_units
        >>> vae = presets.build("pyro-mlp", z_dim=5, shape=16)
        >>> result = active_units(vae, torch.eye(16))
        >>> result.count == int((result.statistic > result.threshold).sum())
        True
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
    r"""Finds the active latent dimensions, whose posterior mean varies over the data.

    .. math:: A_u = \mathrm{Var}_x\big(E_{q(z|x)}[z_u]\big) > 0.01

    :meth:`VAE.embed` gives the posterior mean. For a posterior without a mean in closed form, this
    is the average of 32 draws, whose noise adds 1/32 of the posterior's variance to the statistic.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 5.2.

    Arguments:
        vae: The VAE; it is evaluated in eval mode.
        x: Data of shape ``(N, *x_shape)``, with N of 2 or more.
        threshold: The statistic above which a dimension is active.
        seed: Fixes the noise of a posterior without a mean, and leaves torch's global generator as
            it was; None draws from that generator.

    Returns:
        The statistic of each dimension, and which ones are active.

    Raises:
        TypeError: `vae` is not a VAE, or x has another dtype.
        ValueError: x does not fit the VAE or has one example only, or `threshold` or `seed` is
            out of range.

    Example:
        >>> from pyro_vae.evaluation import active_units
        >>> vae = presets.build("pyro-mlp", z_dim=5, shape=16)
        >>> active_units(vae, torch.eye(16)).statistic.shape
        torch.Size([5])
    """
    if not threshold >= 0:
        raise ValueError(f"threshold: got {threshold!r}, expected a number from 0 up")
    with opened(vae, x) as (_, batch):
        if len(batch[0]) < 2:
            raise ValueError("x: got one example, expected two or more for a variance")
        with seeded(seed, device=batch[0].device):
            parts = zip(*(entry.split(1024) for entry in batch), strict=True)
            means = torch.cat([vae.embed(part, given) for part, *given in parts])
    statistic = means.double().var(0)
    active = statistic > threshold
    return ActiveUnits(statistic, active, int(active.sum()), float(threshold))


@dataclass(frozen=True, repr=False)
class PredictiveCheck:
    r"""A statistic T of the data, compared with that of their replications.

    Attributes:
        observed: T(x) of each example, shape ``(N,)``.
        replicated: T of each replication, shape ``(num_samples, N)``.
        p_values: The share of each example's replications with a larger T, plus half of the share
            with an equal T, shape ``(N,)``.
        p_value: The p-value of the mean of T over all examples.

    Example:
        >>> from pyro_vae.evaluation import posterior_predictive
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = posterior_predictive(vae, torch.eye(16), lambda x: x.mean(-1), seed=0)
        >>> bool(((result.p_values >= 0) & (result.p_values <= 1)).all())
        True
    """

    observed: Tensor
    replicated: Tensor
    p_values: Tensor
    p_value: float

    def __repr__(self) -> str:
        return summary(self)


def posterior_predictive(
    vae: VAE,
    x: Batch,
    statistic: Callable[[Tensor], Tensor],
    num_samples: int = 100,
    *,
    seed: int | None = None,
) -> PredictiveCheck:
    r"""Posterior predictive check: compares a statistic of x with that of replications of x.

    .. math:: p = P(T(\tilde x) > T(x)) + \tfrac12 P(T(\tilde x) = T(x)),
        \quad \tilde x \sim p(\tilde x|z), \; z \sim q(z|x)

    A p-value near 0 or 1 shows that the model does not reproduce the statistic. Since x is used
    twice, the p-values of a correct model are not uniform but concentrate near 1/2.

    Source: Gelman, Meng and Stern (1996), Statistica Sinica 6, section 2.

    Arguments:
        vae: The VAE; it is evaluated in eval mode.
        x: Data of shape ``(N, *x_shape)``, or a tuple of them and their context.
        statistic: T, a function of each example, from ``(*batch, *x_shape)`` to ``(*batch,)``.
        num_samples: The number of replications of each example.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.

    Returns:
        T of the data and of the replications, and the p-values.

    Raises:
        TypeError: `vae` is not a VAE, or x has another dtype.
        ValueError: x does not fit the VAE, T returns another shape, or an argument is out of
            range.

    Example:
        >>> from pyro_vae.evaluation import posterior_predictive
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = posterior_predictive(vae, torch.eye(16), lambda x: x.mean(-1), num_samples=10)
        >>> result.replicated.shape
        torch.Size([10, 16])
    """
    check_count("num_samples", num_samples)
    check_seed(seed)
    observed, replicated = [], []
    with opened(vae, x) as (_, batch):
        parts = zip(*(entry.split(EXAMPLES) for entry in batch), strict=True)
        for index, (part, *given) in enumerate(parts):
            observed.append(_statistic(statistic, part, part.shape[:1]))
            rows = []
            with seeded(seed, index, device=part.device):
                q_z = call(vae, "posterior", part, context=given)
                for _ in range(num_samples):
                    made = call(vae, "likelihood", q_z.sample(), context=given).sample()
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
