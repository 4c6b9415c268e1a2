"""Gaps between ELBO and evidence where they are known in closed form."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from pyro_vae import VAE, distributions, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.evaluation import elbo_gap

from ..losses import log_weights
from ..vaes import LinearGaussian, bernoulli_vae, linear_gaussian


def kl_from_the_posterior(case: LinearGaussian) -> Tensor:
    with torch.no_grad():
        q = case.vae.posterior(case.x).base_dist
    return kl_divergence(q, Normal(case.posterior_loc, case.posterior_scale)).sum(-1)


def test_the_gap_of_a_family_that_holds_the_posterior_is_amortization() -> None:
    """Which is then KL(q, p(z|x)), in closed form."""
    case = linear_gaussian(exact=False, examples=70)
    before = copy.deepcopy(case.vae.state_dict())
    gap = elbo_gap(case.vae, case.x, 2000, steps=300, particles=4, seed=0)
    kl = kl_from_the_posterior(case)
    # The ELBO's standard errors with 2000 samples; the refined one has next to none, but 0.01
    # nats to its optimum.
    with torch.no_grad():
        error = log_weights(case, 2000).std(0) / math.sqrt(2000)
    assert ((gap.amortization - kl).abs() < 5 * error + 0.01).all()
    error_of_mean = error.square().sum().sqrt().item() / 70
    assert gap.amortization_mean == pytest.approx(kl.mean().item(), abs=5 * error_of_mean + 0.01)
    mc_error = log_likelihood(case.vae, case.x, 2000, seed=0).mc_error
    assert gap.approximation_mean == pytest.approx(0, abs=5 * mc_error + 0.01)
    torch.testing.assert_close(gap.log_likelihood, gap.elbo + gap.approximation + gap.amortization)
    assert all(torch.equal(case.vae.state_dict()[k], before[k]) for k in before)
    assert case.vae.training
    assert all(p.grad is None for p in case.vae.parameters())
    few = [elbo_gap(case.vae, case.x, 200, steps=10, seed=0).refined for _ in range(2)]
    assert torch.equal(*few)


@pytest.mark.slow
def test_a_family_that_is_too_small_has_a_gap_of_its_own() -> None:
    """Two latents that one x couples: a diagonal q is below log p(x) by half a log-determinant."""
    decoder = networks.MLP(2, (), 1)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(decoder, scale=0.5),
        posteriors.Normal(networks.MLP(1, (), 4)),
    ).double()
    weight = torch.tensor([[1.0, 1.0]]).double()
    with torch.no_grad():
        decoder.layers[0].weight.copy_(weight)
        decoder.layers[0].bias.zero_()
    x = torch.randn(20, 1).double()
    gap = elbo_gap(vae, x, 4000, estimator="exact", seed=0)
    precision = torch.eye(2).double() + weight.T @ weight / 0.25
    # KL of the best diagonal normal from N(m, P^-1): 1/2 (sum of log P_ii - log det P).
    expected = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    # log w varies by less than a nat over 4000 samples of each of 20 examples.
    assert gap.approximation_mean == pytest.approx(expected, abs=5 / math.sqrt(4000 * 20))
    assert expected > 0.4


@pytest.mark.slow
def test_the_prior_stays_while_a_shared_encoder_is_refined() -> None:
    posterior = posteriors.Normal(networks.MLP(6, (8,), 2))
    vae = VAE(
        priors.VampPrior(posterior, torch.rand(3, 6)),
        likelihoods.Bernoulli(networks.MLP(1, (8,), 6)),
        posterior,
    )
    x = torch.bernoulli(torch.full((30, 6), 0.4))
    gap = elbo_gap(vae, x, 2000, steps=100, estimator="prior", seed=0)
    assert gap.amortization_mean > 0
    assert gap.approximation_mean > -5 * math.sqrt(2 / (2000 * 30))
    with torch.no_grad():
        assert vae.posterior(x[:2]).batch_shape == (2,)  # by the network again


@pytest.mark.parametrize("kind", ["Squashed", "MultivariateNormal", "Mixture", "Flow"])
def test_posteriors_of_all_kinds_are_refined(kind: str) -> None:
    vae = bernoulli_vae(2)
    prior: nn.Module = priors.StandardNormal(2)
    posterior: nn.Module
    if kind == "Squashed":
        posterior, prior = posteriors.Squashed(vae.posterior, 0.0, 1.0), priors.Uniform(2)
    elif kind == "MultivariateNormal":
        posterior = posteriors.MultivariateNormal(networks.MLP(6, (4,), 5))
    elif kind == "Mixture":
        posterior = posteriors.Mixture(networks.MLP(6, (4,), 15), components=3)
    else:
        posterior = posteriors.Flow(networks.MLP(6, (4,), 7), 2)
    vae = VAE(prior, vae.likelihood, posterior)
    x = torch.bernoulli(torch.full((10, 6), 0.4))
    # Six binary pixels leave the posterior near the prior, whose weights are light: they and log w
    # vary by less than one.
    gap = elbo_gap(vae, x, 2000, steps=50, estimator="prior", seed=0)
    assert gap.amortization_mean > 0.005
    assert gap.approximation_mean > -5 * math.sqrt(2 / (2000 * 10))


def test_a_posterior_whose_numbers_cannot_be_refined() -> None:
    def posterior(x: Tensor) -> dist.Distribution:
        weights = dist.Categorical(logits=x.new_zeros(len(x), 2))
        parts = dist.Normal(x[..., :2, None], 1.0).to_event(1)
        return distributions.Mixture(weights, parts)

    vae = bernoulli_vae()
    vae, x = VAE(vae.prior, vae.likelihood, posterior), torch.zeros(3, 6)
    with pytest.raises(ValueError, match=r'site "z": the guide has Mixture.* has no rsample'):
        elbo_gap(vae, x, 10, seed=0)
    with pytest.raises(ValueError, match=r"steps: got 0"):
        elbo_gap(bernoulli_vae(), x, 10, steps=0)
    with pytest.raises(ValueError, match=r"learning_rate: got -1, expected a finite number"):
        elbo_gap(bernoulli_vae(), x, 10, learning_rate=-1)
