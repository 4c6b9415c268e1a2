"""``pyro-vae pairs``: which priors and posteriors go together, found by building them."""

from collections.abc import Callable

import torch
from torch import nn

from pyro_vae import posteriors, priors
from pyro_vae.cli.options import say
from pyro_vae.contracts import check_latents
from pyro_vae.distributions import check_analytic_kl
from pyro_vae.networks import MLP
from pyro_vae.utils.tables import markdown

_X_DIM, _Z_DIM = 3, 2
_LOW, _HIGH = -1.0, 1.0

_POSTERIORS: dict[str, Callable[[], nn.Module]] = {
    "Normal": lambda: posteriors.Normal(MLP(_X_DIM, (), 2 * _Z_DIM)),
    "LowRankNormal": lambda: posteriors.LowRankNormal(MLP(_X_DIM, (), 3 * _Z_DIM), rank=1),
    "MultivariateNormal": lambda: posteriors.MultivariateNormal(MLP(_X_DIM, (), 5)),
    "Mixture": lambda: posteriors.Mixture(MLP(_X_DIM, (), 10), components=2),
    "Flow": lambda: posteriors.Flow(MLP(_X_DIM, (), 2 * _Z_DIM + 1), _Z_DIM),
    "Squashed": lambda: posteriors.Squashed(_POSTERIORS["Normal"](), _LOW, _HIGH),
}

_PRIORS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "StandardNormal": lambda posterior: priors.StandardNormal(_Z_DIM),
    "Uniform": lambda posterior: priors.Uniform(_Z_DIM, _LOW, _HIGH),
    "Laplace": lambda posterior: priors.Laplace(_Z_DIM),
    "StudentT": lambda posterior: priors.StudentT(_Z_DIM, df=3.0),
    "GaussianMixture": lambda posterior: priors.GaussianMixture(_Z_DIM, components=2),
    "VampPrior": lambda posterior: priors.VampPrior(posterior, torch.rand(2, _X_DIM)),
    "Flow": lambda posterior: priors.Flow(_Z_DIM, transforms=1),
}


def pairs() -> None:
    """Print which priors go with which posteriors, and where the KL is exact (analytic_kl)."""
    say(table())


def table() -> str:
    """Returns a Markdown table with a row for each posterior and a column for each prior."""
    rows = ([q, *(kl_of(p, q) for p in _PRIORS)] for q in _POSTERIORS)
    return markdown(["posterior \\ prior", *_PRIORS], rows)


def kl_of(prior: str, posterior: str) -> str:
    """Returns how KL(q, p) is computed.

    ``"exact"`` if ``analytic_kl`` has a closed form, ``"sampled"`` if it has none, and ``"-"`` if
    the supports of prior and posterior differ.
    """
    x = torch.rand(1, _X_DIM)
    q = _POSTERIORS[posterior]()
    try:
        q_z, p_z = q(x), _PRIORS[prior](q)()
        check_latents(p_z, q_z, x)
    except ValueError:
        return "-"
    try:
        check_analytic_kl(q_z, p_z)
    except ValueError:
        return "sampled"
    return "exact"
