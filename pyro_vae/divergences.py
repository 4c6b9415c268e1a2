"""KL divergences in closed form: which pairs have one, and those that torch and Pyro lack."""

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

from pyro_vae.distributions import LowRankNormal


@register_kl(MultivariateNormal, Independent)
@register_kl(LowRankMultivariateNormal, Independent)
def _kl_correlated_independent(
    q: MultivariateNormal | LowRankMultivariateNormal, p: Independent
) -> torch.Tensor:
    r"""The marginals' divergences, and how far q is from their product.

    .. math:: KL(q, \prod_j p_j) = \sum_j KL(q_j, p_j) + \sum_j H(q_j) - H(q)

    Source: log p splits into the marginals' terms; Cover and Thomas (2006), section 2.5.
    """
    marginals = Independent(Normal(q.mean, q.stddev), 1)
    return kl_divergence(marginals, p) + marginals.entropy() - q.entropy()


@register_kl(LowRankNormal, MultivariateNormal)
@register_kl(LowRankNormal, LowRankMultivariateNormal)
def _kl_low_rank_normal(
    q: LowRankNormal, p: MultivariateNormal | LowRankMultivariateNormal
) -> torch.Tensor:
    """torch's closed form of two normals, in float64 as q is."""
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
    """The closed form of two normals; Pyro has it for a ``MultivariateNormal``."""
    base = q.base_dist
    if not isinstance(base, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    return kl_divergence(MultivariateNormal(base.loc, scale_tril=base.scale.diag_embed()), p)


def check_analytic_kl(q: Distribution, p: Distribution, *, site: str = "z") -> None:
    """Raises ValueError unless KL(q, p) has a closed form that is finite."""
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
        f'analytic KL at site "{site}": {reason} for ({describe(q)}, {describe(p)}), expected a '
        'pair with a finite KL; use objectives.trace_elbo(), or kl="sampled", instead'
    )


def describe(distribution: Distribution) -> str:
    """A distribution's family, ``Independent(Normal)`` say, without numbers."""
    inner = [getattr(distribution, part, None) for part in ("base_dist", "component_distribution")]
    names = [describe(d) for d in inner if d is not None]
    return type(distribution).__name__ + (f"({', '.join(names)})" if names else "")
