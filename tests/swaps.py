"""Every prior, likelihood and posterior, small, by name: what the tests of swapping go through."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, posteriors, priors
from pyro_vae.likelihoods import Column

X_DIM = 3
LEVELS = 6


def mlp(in_shape: int, out_shape: int | tuple[int, ...]) -> networks.MLP:
    return networks.MLP(in_shape, (8,), out_shape, activation=nn.Tanh)


def encoder(numbers: int) -> networks.MLP:
    """An encoder that starts with scales near 1.4."""
    network = mlp(X_DIM, numbers)
    with torch.no_grad():
        network.layers[-1].bias.add_(1.0)
    return network


POSTERIORS: dict[str, Callable[[int], nn.Module]] = {
    "Normal": lambda d: posteriors.Normal(encoder(2 * d)),
    "LowRankNormal": lambda d: posteriors.LowRankNormal(encoder(4 * d), rank=2),
    "MultivariateNormal": lambda d: posteriors.MultivariateNormal(encoder(d * (d + 3) // 2)),
    "Mixture": lambda d: posteriors.Mixture(encoder(3 * (1 + 2 * d)), components=3),
    "Flow": lambda d: posteriors.Flow(encoder(2 * d + 3), d, hidden=(8,)),
}

PRIORS: dict[str, Callable[[int, nn.Module], nn.Module]] = {
    "StandardNormal": lambda d, q: priors.StandardNormal(d),
    "Uniform": lambda d, q: priors.Uniform(d, -2.0, 3.0),
    "Laplace": lambda d, q: priors.Laplace(d),
    "StudentT": lambda d, q: priors.StudentT(d, df=5.0),
    "GaussianMixture": lambda d, q: priors.GaussianMixture(d, components=3),
    "GaussianMixture-full": lambda d, q: priors.GaussianMixture(d, 3, covariance="full"),
    "VampPrior": lambda d, q: priors.VampPrior(q, torch.rand(4, X_DIM)),
    "Flow": lambda d, q: priors.Flow(d, transforms=2, hidden=(8,)),
}

PAIRS = [
    (prior, posterior)
    for prior in PRIORS
    for posterior in POSTERIORS
    if (prior, posterior) != ("VampPrior", "Flow")  # refused
]


def slow_but(cases: Iterable[tuple[str, ...]], names: set[str]) -> list[ParameterSet]:
    """Cases of a parametrized test, slow ones but for those with one of some names in them."""
    return [
        pytest.param(*case, marks=() if names & {*case} else pytest.mark.slow) for case in cases
    ]


COLUMNS: dict[str, Column] = {
    "real": likelihoods.Gaussian,
    "class": partial(likelihoods.Categorical, levels=LEVELS),
    "count": likelihoods.Poisson,
}

# By name: numbers a pixel, and what makes the likelihood of a network.
LIKELIHOODS: dict[str, tuple[int, Callable[[nn.Module], nn.Module]]] = {
    "Bernoulli": (1, likelihoods.Bernoulli),
    "ContinuousBernoulli": (1, likelihoods.ContinuousBernoulli),
    "Gaussian-pixel": (2, likelihoods.Gaussian),
    "Gaussian-shared": (1, lambda network: likelihoods.Gaussian(network, scale="shared")),
    "Gaussian-fixed": (1, lambda network: likelihoods.Gaussian(network, scale=0.5)),
    "Laplace": (2, likelihoods.Laplace),
    "StudentT": (2, likelihoods.StudentT),
    "Beta": (2, likelihoods.Beta),
    "Categorical": (LEVELS, lambda network: likelihoods.Categorical(network, LEVELS)),
    "DiscretizedLogistic": (2, lambda network: likelihoods.DiscretizedLogistic(network, LEVELS)),
    "DiscretizedLogistic-2": (
        6,
        lambda network: likelihoods.DiscretizedLogistic(network, LEVELS, components=2),
    ),
    "Poisson": (1, likelihoods.Poisson),
    "NegativeBinomial": (2, likelihoods.NegativeBinomial),
    "Columns": (
        likelihoods.Columns.numbers(COLUMNS),  # of all columns
        lambda network: likelihoods.Columns(network, COLUMNS),
    ),
    "Observed-Gaussian": (2, lambda network: likelihoods.Observed(likelihoods.Gaussian(network))),
    "Observed-Bernoulli": (
        1,
        lambda network: likelihoods.Observed(likelihoods.Bernoulli(network)),
    ),
}

# The kinds of support, and x on them.
SUPPORTS: dict[str, Callable[[int], Tensor]] = {
    "Bernoulli": lambda n: torch.bernoulli(torch.full((n, X_DIM), 0.4)),
    "ContinuousBernoulli": lambda n: torch.rand(n, X_DIM) * 0.98 + 0.01,
    "Beta": lambda n: torch.rand(n, X_DIM) * 0.98 + 0.01,
    "Categorical": lambda n: torch.randint(LEVELS, (n, X_DIM)).float(),
    "DiscretizedLogistic": lambda n: torch.randint(LEVELS, (n, X_DIM)).float(),
    "DiscretizedLogistic-2": lambda n: torch.randint(LEVELS, (n, X_DIM)).float(),
    "Poisson": lambda n: torch.randint(LEVELS, (n, X_DIM)).float(),
    "NegativeBinomial": lambda n: torch.randint(LEVELS, (n, X_DIM)).float(),
    "Columns": lambda n: torch.cat((torch.randn(n, 1), torch.randint(LEVELS, (n, 2)).float()), 1),
    "Observed-Bernoulli": lambda n: torch.bernoulli(torch.full((n, X_DIM), 0.4)),
}


def data(likelihood: str, examples: int = 6) -> Tensor:
    """x on a likelihood's support; any real number where it takes all."""
    return SUPPORTS.get(likelihood, lambda n: torch.randn(n, X_DIM))(examples)


def likelihood_of(name: str, z_dim: int) -> nn.Module:
    numbers, make = LIKELIHOODS[name]
    if name == "Columns":
        return make(mlp(z_dim, numbers))
    return make(mlp(z_dim, X_DIM if numbers == 1 else (numbers, X_DIM)))


def posterior_for(prior: str, posterior: str, z_dim: int) -> nn.Module:
    """A posterior, squashed where the prior is a box."""
    q = POSTERIORS[posterior](z_dim)
    return posteriors.Squashed(q, -2.0, 3.0) if prior == "Uniform" else q


def vae_of(prior: str, posterior: str, likelihood: str = "Bernoulli", z_dim: int = 2) -> VAE:
    q = posterior_for(prior, posterior, z_dim)
    return VAE(PRIORS[prior](z_dim, q), likelihood_of(likelihood, z_dim), q)
