"""Log-likelihood against closed forms and quadrature; seeds, modes, interruptions."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, elbo, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.evaluation import elbo_gap

from ..pairs import guide
from ..vaes import Interrupted, bernoulli_vae, linear_gaussian, log_evidence


def test_exact_posterior_gives_the_evidence_without_variance() -> None:
    model = linear_gaussian(exact=True)
    exact = model.evidence.log_prob(model.x)
    bound = elbo(model.vae, model.x, num_samples=50)
    assert torch.allclose(bound.values, exact, rtol=1e-10)
    # What is left is the rounding of a sum of squares.
    assert bound.mc_error < 1e-7
    assert bound.reconstruction_mc_error > 1e-3
    result = log_likelihood(model.vae, model.x, 50)
    assert torch.allclose(result.values, exact, rtol=1e-10)
    assert torch.allclose(result.ess, torch.tensor(50.0).double())
    assert result.mc_error < 1e-7


@pytest.mark.slow
def test_log_likelihood_finds_the_evidence_with_a_guide_that_is_not_exact() -> None:
    model = linear_gaussian(exact=False, examples=50)
    exact = model.evidence.log_prob(model.x)
    result = log_likelihood(model.vae, model.x, 20000, seed=0)
    assert abs(result.mean - exact.mean().item()) < 5 * result.mc_error
    # Two standard deviations differ by no more than that of the differences.
    noise = (1 / result.ess - 1 / 20000).sum().sqrt().item() / 50
    assert result.stderr == pytest.approx(exact.std().item() / math.sqrt(50), abs=5 * noise)
    bound = elbo(model.vae, model.x, num_samples=2000, seed=0)
    assert (bound.values < exact).all()


def test_log_likelihood_agrees_with_quadrature() -> None:
    vae = bernoulli_vae(1).double()
    x = torch.bernoulli(torch.full((40, 6), 0.4)).double()
    exact = log_evidence(vae, x)
    result = log_likelihood(vae, x, 20000, seed=0)
    assert abs(result.mean - exact.mean().item()) < 5 * result.mc_error
    each = (1 / result.ess - 1 / 20000).sqrt()
    assert ((result.values - exact).abs() < 5 * each).all()


@pytest.mark.slow
def test_bounds_grow_with_the_number_of_samples() -> None:
    vae = bernoulli_vae(1).double()
    x = torch.bernoulli(torch.full((200, 6), 0.4)).double()
    exact = log_evidence(vae, x).mean().item()
    values = [log_likelihood(vae, x.repeat(5, 1), k, seed=0) for k in (1, 10, 100)]
    spread = (values[0].values - log_evidence(vae, x.repeat(5, 1))).std().item() / math.sqrt(1000)
    assert values[0].mean < values[1].mean < values[2].mean
    assert values[2].mean < exact + 5 * values[2].mc_error
    assert values[0].mean < exact - 5 * spread
    assert values[0].mean == pytest.approx(values[0].elbo.mean().item())


@pytest.mark.slow
def test_standard_errors_are_those_of_repeated_runs() -> None:
    model = linear_gaussian(exact=False, examples=10)
    runs = 60
    likelihoods_ = [log_likelihood(model.vae, model.x, 500, seed=s) for s in range(runs)]
    bounds = [elbo(model.vae, model.x, num_samples=100, seed=s) for s in range(runs)]
    for results, mean, error in (
        (likelihoods_, "mean", "mc_error"),
        (bounds, "mean", "mc_error"),
        (bounds, "reconstruction_mean", "reconstruction_mc_error"),
        (bounds, "kl_mean", "kl_mc_error"),
    ):
        spread = torch.tensor([getattr(r, mean) for r in results]).double().std().item()
        stated = torch.tensor([getattr(r, error) for r in results]).double().mean().item()
        # A standard deviation from 60 runs has a relative error of 1 / sqrt(118) = 0.09.
        assert spread == pytest.approx(stated, rel=5 * 0.092)


def test_a_seed_repeats_and_leaves_the_generator() -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((70, 6), 0.4))
    state = torch.get_rng_state()
    first, second = (log_likelihood(vae, x, 70, seed=3).values for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(elbo(vae, x, seed=3).values, elbo(vae, x, seed=3).values)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, log_likelihood(vae, x, 70, seed=4).values)
    torch.manual_seed(7)
    third = log_likelihood(vae, x, 70)
    torch.manual_seed(7)
    assert torch.equal(third.values, log_likelihood(vae, x, 70).values)
    assert third.seed is None
    # Blocks of examples and of samples have noise of their own.
    twice = log_likelihood(vae, torch.cat((x[:64], x[:64])), 64, seed=0).values
    assert not torch.equal(twice[:64], twice[64:])


def test_eval_mode_is_used_and_put_back() -> None:
    encoder = networks.MLP(6, (4,), 2)
    encoder.layers.append(nn.Dropout(0.9))
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Normal(encoder),
    )
    x = torch.bernoulli(torch.full((5, 6), 0.4))
    first = log_likelihood(vae, x, 10, seed=0)
    assert torch.equal(first.values, log_likelihood(vae, x, 10, seed=0).values)
    assert all(m.training for m in vae.modules())
    assert not first.values.requires_grad


def test_a_point_mass_is_no_posterior_to_weigh_with() -> None:
    class Point(nn.Module):
        def forward(self, x: Tensor) -> dist.Distribution:
            return dist.Delta(x[:, :1]).to_event(1)

    decoder = likelihoods.Bernoulli(networks.MLP(1, (), 6))
    vae = VAE(priors.StandardNormal(1), decoder, Point())
    with pytest.raises(ValueError, match=r"posterior: got Independent\(Delta\)"):
        log_likelihood(vae, torch.zeros(3, 6), 5)


def test_a_vae_is_its_model_and_guide() -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((70, 6), 0.4))
    whole = log_likelihood(vae, x, 100, seed=2)
    pair = log_likelihood(x=x, num_samples=100, model=vae.model, guide=vae.guide, seed=2)
    assert torch.equal(whole.values, pair.values)
    assert whole.data_hash == pair.data_hash


def test_a_pair_or_a_vae() -> None:
    vae, x = bernoulli_vae(), torch.zeros(2, 6)
    for arguments in ({}, {"vae": vae, "model": vae.model, "guide": vae.guide}, {"guide": guide}):
        with pytest.raises(TypeError, match=r"vae, model, guide: got .*expected a vae, or a mo"):
            log_likelihood(x=x, **arguments)
    with pytest.raises(TypeError, match=r"x: got None, expected a torch\.Tensor"):
        log_likelihood(vae)
    with pytest.raises(ValueError, match=r'estimator: got "exact" for a pair'):
        log_likelihood(x=x, model=vae.model, guide=vae.guide, estimator="exact")
    for text in ("best", "ais:3:2:1", "ais:x", "prior:3", "exact:1"):
        with pytest.raises(
            ValueError, match=f"estimator: got '{text}', expected one of ais, impor"
        ):
            log_likelihood(vae, x, estimator=text)
    with pytest.raises(ValueError, match="leapfrog_steps: got 0, expected a positive integer"):
        log_likelihood(vae, x, estimator="ais:3:0")


def test_an_interruption_returns_what_is_done() -> None:
    vae = bernoulli_vae()
    part = Interrupted(vae.likelihood)
    vae = VAE(vae.prior, part, vae.posterior)
    x = torch.bernoulli(torch.full((200, 6), 0.4))
    part.left = many = 10**6
    whole = log_likelihood(vae, x, 100, seed=0)
    assert whole.complete
    state = torch.get_rng_state()
    part.left = many - part.left - 3  # all calls but the last ones
    result = log_likelihood(vae, x, 100, seed=0)
    assert not result.complete
    assert 0 < len(result.values) < 200
    assert len(result.values) % 64 == 0
    assert torch.equal(result.values, whole.values[: len(result.values)])
    assert result.mean == pytest.approx(result.values.mean().item())
    assert result.data_hash == whole.data_hash
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    part.left = 5
    with pytest.raises(KeyboardInterrupt):
        log_likelihood(vae, x, 100, seed=0)


def test_an_interruption_ends_what_is_made_of_log_likelihoods() -> None:
    vae = bernoulli_vae()
    part = Interrupted(vae.likelihood)
    vae = VAE(vae.prior, part, vae.posterior)
    x = torch.bernoulli(torch.full((200, 6), 0.4))
    part.left = 15
    with pytest.raises(KeyboardInterrupt):
        elbo_gap(vae, x, 100, seed=0)
