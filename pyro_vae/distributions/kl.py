"""KL divergences in closed form: those that torch and Pyro lack, and a check that one exists."""

import torch
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
    register_kl,
)

from pyro_vae.distributions.low_rank_normal import LowRankNormal

__all__ = ["check_analytic_kl", "describe"]


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _kl_correlated_independent(
    q: MultivariateNormal | LowRankMultivariateNormal, p: Independent
) -> torch.Tensor:
    r"""The KL of the marginals, plus that between q and the product of its marginals.

    .. math:: KL(q, \prod_j p_j) = \sum_j KL(q_j, p_j) + \sum_j H(q_j) - H(q)

    This holds since log p is a sum of one term for each dimension. Source: Cover and Thomas
    (2006), section 2.5.
    """
    marginals = Independent(Normal(q.mean, q.stddev), 1)
    return kl_divergence(marginals, p) + marginals.entropy() - q.entropy()


@register_kl(LowRankNormal, MultivariateNormal)
@register_kl(LowRankNormal, LowRankMultivariateNormal)
def _kl_low_rank_normal(
    q: LowRankNormal, p: MultivariateNormal | LowRankMultivariateNormal
) -> torch.Tensor:
    """torch's closed form for two normals, in float64 since q is."""
    loc = p.loc.double()
    exact = LowRankMultivariateNormal(q.loc, q.cov_factor, q.cov_diag)
    other = (
        MultivariateNormal(loc, scale_tril=p.scale_tril.double())
        if isinstance(p, MultivariateNormal)
        else LowRankMultivariateNormal(loc, p.cov_factor.double(), p.cov_diag.double())
    )
    return kl_divergence(exact, other).to(q.mean.dtype)


@register_kl(Independent, LowRankMultivariateNormal)
def _kl_independent_correlated(q: Independent, p: LowRankMultivariateNormal) -> torch.Tensor:
    """The closed form for two normals; Pyro registers it for ``MultivariateNormal`` only."""
    base = q.base_dist
    if not isinstance(base, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return kl_divergence(MultivariateNormal(base.loc, scale_tril=base.scale.diag_embed()), p)


def check_analytic_kl(q: Distribution, p: Distribution, *, site: str = "z") -> None:
    """Checks that KL(q, p) has a closed form that is finite.

    Arguments:
        q, p: The two distributions.
        site: Name of the Pyro site that they belong to, for the error message.

    Raises:
        ValueError: No closed form is registered, or it is infinite or NaN.

    Example:
        >>> from pyro_vae.distributions import check_analytic_kl
        >>> Normal, Uniform = pyro.distributions.Normal, pyro.distributions.Uniform
        >>> check_analytic_kl(Normal(0.0, 1.0), Normal(1.0, 2.0))
        >>> check_analytic_kl(Normal(0.0, 1.0), Uniform(0.0, 1.0))
        Traceback (most recent call last):
        ValueError: analytic KL at site "z": the closed form is infinite for (Normal, Uniform), ...
    """
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        reason = "no closed form is registered"
    else:
        kl = torch.as_tensor(kl)
        if torch.isfinite(kl).all():
            return
        reason = f"the closed form is {'NaN' if kl.isnan().any() else 'infinite'}"
    raise ValueError(
        f'analytic KL at site "{site}": {reason} for ({describe(q)}, {describe(p)}), expected two '
        'distributions with a finite KL; use objectives.trace_elbo(), or kl="sampled", instead'
    )


def describe(distribution: Distribution) -> str:
    """The family of a distribution without its numbers, such as ``Independent(Normal)``.

    Example:
        >>> from pyro_vae.distributions import describe_distribution
        >>> describe_distribution(priors.StandardNormal(2)())
        'Independent(Normal)'
    """
    inner = [getattr(distribution, part, None) for part in ("base_dist", "component_distribution")]
    names = [describe(d) for d in inner if d is not None]
    return type(distribution).__name__ + (f"({', '.join(names)})" if names else "")
