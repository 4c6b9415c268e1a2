"""Annealed importance sampling: weights, moves, temperatures."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.evaluation.blocks import Block
from pyro_vae.evaluation.estimators import AIS
from pyro_vae.evaluation.estimators.annealed_path import Path, schedule
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.evaluation.scorer import Scorer

from ...pairs import guide
from ...vaes import bernoulli_vae, linear_gaussian


def annealed(vae: VAE, x: Tensor, temperatures: int, seed: int = 0) -> Path:
    densities = LogDensities(vae.model, vae.guide, (x,))
    return Path(Block(Scorer(densities), (x,), seed, 0, 2**28), temperatures, leapfrog_steps=4)


def test_weights_of_annealing_have_the_evidence_as_their_mean() -> None:
    """Forward w / p(x) is one in the mean, and so is p(x) / w backward from the posterior."""
    case = linear_gaussian(exact=False, examples=40)
    vae, x = case.vae, case.x
    exact = case.evidence.log_prob(x)
    with torch.no_grad():
        path = annealed(vae, x, 6)
        forward = (path.forward(0, 100) - exact).exp()
        z = case.posterior_loc + case.posterior_scale * torch.randn(100, *case.posterior_loc.shape)
        backward = (exact - path.backward({"z": z.double()})).exp()
    for ratio in (forward, backward):
        error = ratio.std().item() / math.sqrt(ratio.numel())
        assert abs(ratio.mean().item() - 1) < 4 * error
        assert error < 0.05


@pytest.mark.slow
def test_moves_accept_what_they_are_adapted_to() -> None:
    case = linear_gaussian(exact=False, examples=20)
    with torch.no_grad():
        path = annealed(case.vae, case.x, 60)
        state = path._start(200)
        for _, beta, step in path._steps():
            accepted = path._move(state, beta, step)
    assert 0.5 < accepted.mean().item() < 0.85
    # At the end of all temperatures the chains are where the posterior is.
    z = state.u["z"]
    error = case.posterior_scale / math.sqrt(200)
    assert ((z.mean(0) - case.posterior_loc).abs() < 5 * error).all()
    torch.testing.assert_close(
        z.std(0), case.posterior_scale.expand(20, -1), rtol=5 / math.sqrt(400), atol=0
    )


def test_moves_leave_the_prior_of_a_bounded_latent_alone() -> None:
    """Behind its transform a uniform prior has a density of its own, by the Jacobian."""
    vae = VAE(
        priors.Uniform(1, -1.0, 2.0),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Squashed(posteriors.Normal(networks.MLP(6, (), 2)), -1.0, 2.0),
    ).double()
    x = torch.bernoulli(torch.full((40, 6), 0.4)).double()
    with torch.no_grad():
        path = annealed(vae, x, 1)
        state = path._start(200)
        for _ in range(20):
            path._move(state, 0.0, torch.full((40,), 0.5).double())
        z = path.transforms["z"](state.u["z"])
    count = z.numel()
    assert abs(z.mean().item() - 0.5) < 4 * 3 / math.sqrt(12 * count)
    # The variance of a uniform's squared deviation is (3^4) / 180.
    assert abs((z - 0.5).square().mean().item() - 0.75) < 4 * math.sqrt(81 / 180 / count)


def test_temperatures_rise_from_nothing_to_one() -> None:
    betas = schedule(50)
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (betas.diff() > 0).all()
    assert schedule(1).tolist() == [0, 1]
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(51).to(betas))


def test_moves_out_of_the_float_range_are_rejected() -> None:
    """Rates that overflow on the way, and a latent that underflows."""
    vae = bernoulli_vae(1)
    wild = VAE(
        vae.prior,
        likelihoods.Poisson(networks.MLP(1, (), 6)),
        vae.posterior,
    )
    with torch.no_grad():
        wild.likelihood.network.layers[0].weight.mul_(20)
    x = torch.full((5, 6), 200.0)
    result = log_likelihood(wild, x, 4, estimator=AIS(5, 10), seed=0)
    assert not result.values.isnan().any()


def test_annealing_of_mixtures_and_what_it_cannot_do() -> None:
    def mixed(x: Tensor) -> None:
        parts = dist.Normal(torch.tensor([-1.0, 1.0]), 0.5)
        with pyro.plate("data", len(x)):
            prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    x = torch.randn(10, 1)
    exact = torch.stack(
        [dist.Normal(m, math.sqrt(1.25)).log_prob(x[:, 0]) for m in (-1.0, 1.0)]
    ).logsumexp(0) - math.log(2)
    result = log_likelihood(
        x=x, num_samples=64, model=mixed, guide=guide, estimator=AIS(30, 4), seed=0
    )
    error = result.mc_error
    assert abs(result.mean + 5 * error**2 - exact.mean().item()) < 5 * error

    def circular(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.tensor(0.0), torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match='site "z": a latent on a circle'):
        log_likelihood(x=x, num_samples=2, model=circular, guide=guide, estimator="ais")
