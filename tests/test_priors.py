"""Priors: formulas, VampPrior and its pseudo-inputs."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_vae import posteriors, priors

from .swaps import POSTERIORS, X_DIM, vae_of
from .tolerances import assert_rounded


def test_priors_are_their_formulas() -> None:
    z = torch.randn(5, 2).double()
    for prior, expected in [
        (priors.StandardNormal(2), dist.Normal(0.0, 1.0)),
        (priors.Laplace(2), dist.Laplace(0.0, 1.0)),
        (priors.StudentT(2, df=2.5), dist.StudentT(2.5)),
        (priors.Flow(2), dist.Normal(0.0, 1.0)),  # where it starts
    ]:
        log_prob = prior.double()().log_prob(z)
        torch.testing.assert_close(log_prob, expected.log_prob(z).sum(-1))
    box = priors.Uniform(2, -3.0, 5.0).double()().log_prob(z.clamp(-3, 4))
    torch.testing.assert_close(box, torch.full((5,), -2 * math.log(8)).double())
    mixture = priors.GaussianMixture(20, components=2000)()
    # Means of N(0, 1/2): the variance of their mean, and of their mean square.
    error = 5 * math.sqrt(0.5 / 2000)
    torch.testing.assert_close(mixture.mean, torch.zeros(20), atol=error, rtol=0)
    torch.testing.assert_close(mixture.variance, torch.ones(20), atol=error, rtol=0)
    assert mixture.mixture_distribution.probs.unique().numel() == 1
    scale = mixture.component_distribution.base_dist.scale
    assert_rounded(scale, torch.full_like(scale, 0.5**0.5), terms=10)


def test_a_gaussian_mixture_is_the_weighted_sum_of_its_components() -> None:
    """At parameters away from where they start, with unequal weights."""
    prior = priors.GaussianMixture(2, components=3).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    z = torch.randn(7, 2).double()
    scale = F.softplus(prior.raw_scale) + priors.SCALE_FLOOR
    each = dist.Normal(prior.loc, scale).log_prob(z[:, None]).sum(-1)
    weights = prior.logits.softmax(-1)
    torch.testing.assert_close(prior().log_prob(z), (weights * each.exp()).sum(-1).log())


def test_a_mixture_of_full_covariance_has_what_is_below_the_diagonal() -> None:
    prior = priors.GaussianMixture(3, components=2, covariance="full").double()
    start = priors.GaussianMixture(3, components=2).double()
    assert prior.below is not None
    start.load_state_dict({k: v for k, v in prior.state_dict().items() if k != "below"})
    z = torch.randn(7, 3).double()
    torch.testing.assert_close(prior().log_prob(z), start().log_prob(z))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    weights, each = prior.logits.softmax(-1), []
    for k in range(2):
        tril = torch.diag(F.softplus(prior.raw_scale[k]) + priors.SCALE_FLOOR)
        tril = tril.index_put((torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1])), prior.below[k])
        each.append(dist.MultivariateNormal(prior.loc[k], tril @ tril.T).log_prob(z))
    expected = (weights * torch.stack(each, -1).exp()).sum(-1).log()
    torch.testing.assert_close(prior().log_prob(z), expected)
    expected.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.parameters())


@pytest.mark.parametrize("name", sorted(set(POSTERIORS) - {"Flow"}))
def test_vamp_prior_is_the_average_posterior(name: str) -> None:
    posterior = POSTERIORS[name](2).double()
    pseudo_inputs = torch.rand(5, X_DIM).double()
    z = torch.randn(7, 2).double()
    p_z = priors.VampPrior(posterior, pseudo_inputs)()
    each = torch.stack([posterior(u).log_prob(z) for u in pseudo_inputs])
    torch.testing.assert_close(p_z.log_prob(z), each.logsumexp(0) - math.log(5))


def test_pseudo_inputs_stay_inside_and_find_back() -> None:
    posterior = posteriors.Normal(nn.Identity())
    prior = priors.VampPrior(posterior, torch.tensor([[0.0, 1.0], [0.4, 0.5]]))
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([[-0.3, 1.2], [0.4, 0.5]]))
    inside = prior().component_distribution.base_dist.loc
    assert torch.equal(inside, torch.tensor([[0.0], [0.4]]))
    for sign in (1.0, -1.0):
        (sign * prior().component_distribution.base_dist.loc.sum()).backward()
        assert prior.raw.grad is not None
        # A descent by the gradient leads back inside where it is not zero.
        assert prior.raw.grad[0, 0] == (0.0 if sign > 0 else -1.0)
        assert prior.raw.grad[1, 0] == sign
        prior.raw.grad = None


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-0.3, 0.7), (0.0, math.inf)])
def test_pseudo_inputs_are_those_given_and_never_leave_the_range(low: float, high: float) -> None:
    """Whatever the optimizer makes of the parameter, of finite ranges the part from 0 to 1."""
    width = min(high - low, 300.0)
    given = low + width * torch.rand(40, 3)
    prior = priors.VampPrior(posteriors.Normal(nn.Linear(3, 4)), given, low, high)
    assert_rounded(prior.pseudo_inputs, given, terms=4, magnitude=width + abs(low))
    part = (given - low) / (high - low) if math.isfinite(high) else given
    assert_rounded(prior.raw.detach(), part, terms=4, magnitude=part.abs() + 1)
    with torch.no_grad():
        prior.raw.add_(width * torch.randn(40, 3))
    assert (prior.pseudo_inputs >= low).all()
    assert (prior.pseudo_inputs <= high).all()


def test_a_shared_posterior_is_trained_by_both() -> None:
    vae = vae_of("VampPrior", "Normal")
    shared = vae.posterior.network.layers[0].weight
    assert vae.prior.posterior is vae.posterior
    vae.prior().log_prob(torch.zeros(2)).backward()
    assert shared.grad.abs().sum() > 0
    assert sum(p is shared for p in vae.parameters()) == 1
    other = copy.deepcopy(vae)
    assert other.prior.posterior is other.posterior
