"""Swapping parts: any prior with any posterior and any likelihood, in all that a VAE does."""

import itertools
import math
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae import VAE, elbo, load, log_likelihood, objectives, optim, save
from pyro_vae.likelihoods import Bernoulli

from .conftest import needs_compiler
from .quadrature import check_against_quadrature
from .swaps import LIKELIHOODS, PAIRS, SUPPORTS, X_DIM, data, likelihood_of, slow_but, vae_of
from .tolerances import CLOSE

PLAIN = {"StandardNormal", "Normal"}
"""With one of these, each other part is in a pair that is not slow."""

COMBINATIONS = [
    *((prior, posterior, "Bernoulli") for prior, posterior in PAIRS),
    *(("StandardNormal", "Normal", likelihood) for likelihood in LIKELIHOODS),
]


def loss(vae: VAE, x: Tensor, objective: ELBO, seed: int = 0) -> float:
    """The loss with the same noise each time."""
    torch.manual_seed(seed)
    return objective.loss(vae.model, vae.guide, x)


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), slow_but(COMBINATIONS, PLAIN))
def test_all_that_a_vae_does(prior: str, posterior: str, likelihood: str, tmp_path: Path) -> None:
    vae, x = vae_of(prior, posterior, likelihood), data(likelihood)

    # Five steps lower the loss of a fixed batch, with the same noise before and after.
    fixed = objectives.trace_elbo(64)
    before = loss(vae, x, fixed)
    svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objectives.trace_elbo(8))
    for _ in range(5):
        svi.step(x)
    assert loss(vae, x, fixed) < before

    # Particles vectorized and one after the other estimate the same number, and so does `elbo`.
    sampled = elbo(vae, x, 600, seed=0)
    many = 30
    error = len(x) * sampled.mc_error * math.sqrt(600 / many)
    for objective in (objectives.trace_elbo(many), Trace_ELBO(many)):
        value = loss(vae, x, objective, seed=1)
        assert value == pytest.approx(-len(x) * sampled.mean, abs=5 * error)

    # Sampled and analytic KL agree in the mean, where there is the latter.
    objective = objectives.analytic_kl(many)
    try:
        kl_divergence(vae.posterior(x), vae.prior())
    except NotImplementedError:
        with pytest.raises(ValueError, match="no closed form is registered"):
            loss(vae, x, objective)
    else:
        value = loss(vae, x, objective)
        analytic = elbo(vae, x, 600, kl="analytic", seed=2)
        assert sampled.kl_mean == pytest.approx(analytic.kl_mean, abs=5 * sampled.kl_mc_error)
        error = 5 * len(x) * analytic.mc_error * math.sqrt(600 / many)
        assert value == pytest.approx(-len(x) * analytic.mean, abs=error)

    # Point values are finite and have the shape of x.
    for values in (vae.reconstruct(x), vae.generate(4), vae.generate(4, sample=True)):
        assert values.shape[1:] == x.shape[1:]
        assert torch.isfinite(values).all()
        assert values.is_floating_point()

    # What is saved gives the same numbers, bit for bit.
    result = log_likelihood(vae, x, 50, seed=3)
    save(vae, tmp_path / "run")
    other = vae_of(prior, posterior, likelihood)
    assert not torch.equal(log_likelihood(other, x, 50, seed=3).values, result.values)
    load(tmp_path / "run", into=other)
    assert torch.equal(log_likelihood(other, x, 50, seed=3).values, result.values)


# Log-likelihood against quadrature.


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), slow_but(COMBINATIONS, PLAIN))
def test_log_likelihood_is_the_integral(prior: str, posterior: str, likelihood: str) -> None:
    """One latent dimension."""
    vae = vae_of(prior, posterior, likelihood, z_dim=1).double()
    check_against_quadrature(vae, data(likelihood, 3).double(), 4000, z_dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["Gaussian-pixel", "Beta", "Poisson"])
@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_log_likelihood_is_the_integral_on_each_kind_of_support(
    prior: str, posterior: str, likelihood: str
) -> None:
    vae = vae_of(prior, posterior, likelihood, z_dim=1).double()
    check_against_quadrature(vae, data(likelihood, 3).double(), 4000, z_dim=1)


@pytest.mark.parametrize(
    ("prior", "posterior"),
    slow_but(itertools.product(("GaussianMixture", "Flow"), ("Normal", "Flow")), {"Normal"}),
)
def test_log_likelihood_in_two_dimensions(prior: str, posterior: str) -> None:
    vae = vae_of(prior, posterior, z_dim=2)
    with torch.no_grad():  # away from where they start
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    check_against_quadrature(vae.double(), data("Bernoulli", 3).double(), 300, z_dim=2)


# Compiled.


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("prior", "posterior", "likelihood"),
    [
        ("VampPrior", "Mixture", "DiscretizedLogistic-2"),
        ("Flow", "Flow", "ContinuousBernoulli"),
        ("Uniform", "MultivariateNormal", "Categorical"),
        ("Uniform", "Normal", "NegativeBinomial"),
    ],
)
def test_compiled_steps_are_the_uncompiled_ones(
    prior: str, posterior: str, likelihood: str
) -> None:
    x, runs = data(likelihood).double(), []
    for objective in (Trace_ELBO(), objectives.compiled(Trace_ELBO())):
        torch.manual_seed(0)
        vae = vae_of(prior, posterior, likelihood).double()
        svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objective)
        torch.manual_seed(1)
        runs.append([svi.step(x) for _ in range(3)])
    assert runs[1] == pytest.approx(runs[0], rel=CLOSE)


# What does not fit.


def test_supports_that_differ_are_named() -> None:
    x = data("Bernoulli")
    vae = VAE(vae_of("Uniform", "Normal").prior, *_of(vae_of("Laplace", "Normal")))
    with pytest.raises(ValueError, match=r"Real.*Interval\(-2, 3\).*Squashed\(posterior, low=-2"):
        vae.guide(x)
    vae = VAE(vae_of("Laplace", "Normal").prior, *_of(vae_of("Uniform", "Normal")))
    with pytest.raises(ValueError, match=r"Interval\(-2, 3\), expected the prior's, Real"):
        elbo(vae, x)


def _of(vae: VAE) -> tuple[torch.nn.Module, torch.nn.Module]:
    return vae.likelihood, vae.posterior


@pytest.mark.parametrize("likelihood", sorted(SUPPORTS))
def test_x_off_the_support_is_refused(likelihood: str) -> None:
    vae, x = vae_of("StandardNormal", "Normal", likelihood), data(likelihood)
    off = {"Bernoulli": 0.5, "ContinuousBernoulli": 1.5, "Beta": -0.1}.get(likelihood, 1.5)
    x[1, 2] = off
    with pytest.raises(ValueError, match=rf"x(, column 'count')?: got {off:g} at 1 of"):
        log_likelihood(vae, x, 5)


def test_functions_serve_as_parts() -> None:
    import pyro.distributions as dist

    decoder, x = likelihood_of("Bernoulli", 2), data("Bernoulli")
    assert isinstance(decoder, Bernoulli)
    encoder = torch.nn.Linear(X_DIM, 2)
    vae = VAE(
        lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1),
        decoder,
        lambda x: dist.Normal(encoder(x), 0.5).to_event(1),
    )
    names = pyro.poutine.trace(vae.model).get_trace(x).param_nodes
    assert names
    assert all(name.startswith("vae.likelihood.") for name in names)
    assert math.isfinite(log_likelihood(vae, x, 10).mean)
    for part in (Bernoulli, decoder.forward):
        with pytest.raises(TypeError, match=r"likelihood: got .*, expected the module itself"):
            VAE(vae.prior, part, vae.posterior)
