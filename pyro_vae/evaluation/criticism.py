"""Criticism of trained VAEs: active latent units, and posterior predictive checks."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from pyro_vae.contracts import call
from pyro_vae.distributions import latent_point
from pyro_vae.evaluation.blocks import EXAMPLES
from pyro_vae.evaluation.inputs import opened
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.evaluation.simulation import check_simulates, observed_site
from pyro_vae.pair import Pair
from pyro_vae.utils.checks import check_count, check_function, check_number, check_seed
from pyro_vae.utils.context import Batch, Examples
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.utils.turns import one_at_a_time
from pyro_vae.vae import VAE

_DRAWS = 32  # of the sites before another, over which its mean is averaged


@dataclass(frozen=True, repr=False)
class ActiveUnits:
    r"""The latent dimensions that depend on x.

    Attributes:
        statistic: :math:`A_u = \mathrm{Var}_x(E_{q(z|x)}[z_u])`, shape ``(z_dim,)``.
        active: Whether each dimension's statistic is above the threshold, shape ``(z_dim,)``.
        count: The number of active dimensions.
        threshold: The statistic above which a dimension is active.
        shapes: The event shape of each latent site by name. The dimensions of all sites follow
            each other in `statistic`.

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
    shapes: Mapping[str, torch.Size]

    def by_site(self) -> dict[str, Tensor]:
        """Returns the statistic of each latent site, in the site's event shape."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = self.statistic.split(sizes)
        return {n: p.view(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}

    def __repr__(self) -> str:
        return summary(self, "latents")


@one_at_a_time
def active_units(
    vae: Pair, x: Batch, *, threshold: float = 0.01, seed: int | None = None
) -> ActiveUnits:
    r"""Finds the active latent dimensions, whose posterior mean varies over the data.

    .. math:: A_u = \mathrm{Var}_x\big(E_{q(z|x)}[z_u]\big) > 0.01

    :meth:`VAE.embed` gives the posterior mean. For a posterior without a mean in closed form, this
    is the average of 32 draws, whose noise adds 1/32 of the posterior's variance to the statistic.
    For any other pair, it is the mean of the distribution at each guide site; with several sites,
    it is averaged over 32 draws of the sites before it. A site of missing entries is left out.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 5.2.

    Arguments:
        vae: A VAE or any :class:`Pair`; it is evaluated in eval mode.
        x: Data of shape ``(N, *x_shape)``, with N of 2 or more, or a tuple of them and their
            context.
        threshold: The statistic above which a dimension is active.
        seed: Fixes the noise of a posterior without a mean, and leaves torch's global generator as
            it was; None draws from that generator.

    Returns:
        The statistic of each dimension, and which ones are active.

    Raises:
        TypeError: `vae` is not a pair, or x has another dtype.
        ValueError: x does not fit the pair or has one example only, or `threshold` or `seed` is
            out of range.

    Example:
        >>> from pyro_vae.evaluation import active_units
        >>> vae = presets.build("pyro-mlp", z_dim=5, shape=16)
        >>> active_units(vae, torch.eye(16)).statistic.shape
        torch.Size([5])
    """
    check_number("threshold", threshold, 0)
    with opened(vae, x) as (densities, batch):
        if len(batch[0]) < 2:
            raise ValueError("x: got one example, expected two or more for a variance")
        found: dict[str, list[Tensor]] = {}
        with seeded(seed, device=batch[0].device):
            for part in zip(*(entry.split(1024) for entry in batch), strict=True):
                for name, mean in _means(vae, densities, part).items():
                    found.setdefault(name, []).append(mean)
    means = {name: torch.cat(parts) for name, parts in found.items()}
    statistic = torch.cat([mean.double().reshape(len(mean), -1).var(0) for mean in means.values()])
    shapes = {name: mean.shape[1:] for name, mean in means.items()}
    active = statistic > threshold
    return ActiveUnits(statistic, active, int(active.sum()), float(threshold), shapes)


def _means(pair: Pair, densities: LogDensities, batch: Examples) -> dict[str, Tensor]:
    """The posterior mean of each latent site, of shape ``(N, *event_shape)``."""
    if isinstance(pair, VAE):
        return {"z": pair.embed(batch[0], batch[1:])}
    z, _ = densities.draw(batch, _DRAWS if len(densities.latents) > 1 else 1)
    guide = densities.distributions("guide", batch, z)
    missing = getattr(pair, "missing_site", None)  # It has x, and not what x depends on.
    names = [name for name in densities.latents if name != missing]
    for name in names:
        if guide[name].support.is_discrete:
            raise ValueError(
                f'site "{name}": a discrete latent, expected continuous ones, whose means vary '
                "with x"
            )
    means = {name: latent_point(guide[name]).mean(0) for name in names}
    return {name: mean.movedim(densities.example_axis - 1, 0) for name, mean in means.items()}


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


@one_at_a_time
def posterior_predictive(
    vae: Pair,
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

    Where x has NaN, for entries that are not observed, its replications have NaN too, so that T
    compares the observed entries. T then has to be a function of those, such as
    ``lambda x: x.nanmean(-1)``.

    Source: Gelman, Meng and Stern (1996), Statistica Sinica 6, section 2.

    Arguments:
        vae: A VAE or any :class:`Pair`; it is evaluated in eval mode.
        x: Data of shape ``(N, *x_shape)``, or a tuple of them and their context.
        statistic: T, a function of each example, from ``(*batch, *x_shape)`` to ``(*batch,)``.
        num_samples: The number of replications of each example.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.

    Returns:
        T of the data and of the replications, and the p-values.

    Raises:
        TypeError: `vae` is not a pair, or x has another dtype.
        ValueError: x does not fit the pair, T returns another shape, or NaN for x with NaN, or an
            argument is out of range. A pair has several observed sites and none has the name
            ``"x"``, or the distribution of x depends on x itself.

    Example:
        >>> from pyro_vae.evaluation import posterior_predictive
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = posterior_predictive(vae, torch.eye(16), lambda x: x.mean(-1), num_samples=10)
        >>> result.replicated.shape
        torch.Size([10, 16])
    """
    check_function("statistic", statistic)
    check_count("num_samples", num_samples)
    check_seed(seed)
    observed, replicated = [], []
    with opened(vae, x) as (densities, batch):
        parts = zip(*(entry.split(EXAMPLES) for entry in batch), strict=True)
        for index, part in enumerate(parts):
            with seeded(seed, index, device=part[0].device):
                replications = _replications(vae, densities, part)
                own = next(replications)
                holes = torch.isnan(own)
                observed.append(_statistic(statistic, own, own.shape[:1]))
                drawn = (made.masked_fill(holes, math.nan) for made in replications)
                some = islice(drawn, num_samples)
                rows = [_statistic(statistic, made, own.shape[:1]) for made in some]
            replicated.append(torch.stack(rows))
    own, other = torch.cat(observed), torch.cat(replicated, 1)
    return PredictiveCheck(
        own, other, _share_above(other, own), _share_above(other.mean(1), own.mean()).item()
    )


def _replications(pair: Pair, densities: LogDensities, batch: Examples) -> Iterator[Tensor]:
    """Yields x, and then replications of it, of shape ``(N, *x_shape)``."""
    if isinstance(pair, VAE):
        x, *context = batch
        yield x
        q_z = call(pair, "posterior", x, context=context)
        while True:
            yield call(pair, "likelihood", q_z.sample(), context=context).sample()
    site = observed_site(densities, batch)
    yield densities.observations(batch)[site]
    checked = False
    while True:
        z, _ = densities.draw(batch, 1)
        _, drawn = densities.simulated(batch, z)
        if not checked:
            check_simulates(densities, site, batch, z, drawn[site])
            checked = True
        yield drawn[site]


def _statistic(statistic: Callable[[Tensor], Tensor], x: Tensor, shape: torch.Size) -> Tensor:
    value = statistic(x)
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"statistic: gave {got} for x of shape {tuple(x.shape)}, expected {tuple(shape)}: one "
            "number for each example"
        )
    if torch.isnan(value).any() and torch.isnan(x).any():
        raise ValueError(
            "statistic: gave NaN for x with NaN, which stands for what is not observed, expected "
            "a number from the observed entries, such as torch.nanmean"
        )
    return value.double()


def _share_above(replicated: Tensor, observed: Tensor) -> Tensor:
    above, same = replicated > observed, replicated == observed
    return (above.double() + 0.5 * same.double()).mean(0)
