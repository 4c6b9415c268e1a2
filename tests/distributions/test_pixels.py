"""Distributions of pixels: exact values where torch loses digits."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import distributions
from pyro_vae.distributions import DiscretizedLogistic, Levels, NegativeBinomial

from ..tolerances import assert_rounded, rounding


@pytest.mark.parametrize("components", [1, 3])
def test_discretized_logistics_are_differences_of_their_distribution_function(
    components: int,
) -> None:
    """Exact where naive differences are zero; the outer levels take the tails."""
    loc = torch.tensor([-0.5, 0.2, 3.0]).double()[:components]
    scale = torch.tensor([0.2, 0.01, 0.05]).double()[:components]
    logits = torch.tensor([0.0, 1.0, -1.0]).double()[:components]
    pixel = DiscretizedLogistic(logits, loc, scale, 256)
    levels = torch.arange(256).double()
    cdf = ((levels + 0.5) / 255 - loc[:, None]).div(scale[:, None]).sigmoid()
    cdf[:, -1] = 1.0
    naive = torch.diff(cdf, prepend=torch.zeros(components, 1).double())
    expected = logits.softmax(0) @ naive
    torch.testing.assert_close(pixel.log_prob(levels).exp(), expected, rtol=1e-6, atol=1e-15)
    torch.testing.assert_close(pixel.mean, (expected * levels).sum())
    # Thirty scales away from all bins, float32 keeps its digits, and gradients are finite.
    far = torch.tensor([30.0]).requires_grad_()
    log_prob = DiscretizedLogistic(torch.zeros(1), far, torch.ones(1), 256).log_prob(
        levels.float()
    )
    slope = -(30 - levels.float() / 255) + math.log(1 / 255)
    # The width of a bin, squared and over 24, is what the slope leaves out.
    assert_rounded(log_prob[1:-1], slope[1:-1], terms=10, magnitude=slope[1:-1].abs() + 1)
    (gradient,) = torch.autograd.grad(log_prob.sum(), far)
    assert gradient.item() == pytest.approx(-255, rel=rounding(255))


def test_negative_binomials_become_poissons() -> None:
    counts, mean = torch.arange(60.0), torch.tensor(20.0)
    r = torch.tensor(1e6)
    pixel = NegativeBinomial(r, logits=mean.log() - r.log())
    expected = dist.Poisson(mean).log_prob(counts)
    # To first order in 1 / r the two differ by ((x - m)^2 - x) / 2 r, 8e-4 at most.
    order = ((counts - mean).square() - counts) / (2 * r)
    difference = pixel.log_prob(counts) - expected
    torch.testing.assert_close(difference, order, rtol=0, atol=rounding(10) * 60)
    # A mass has the absolute error of its logarithm, of up to three nats where it counts.
    mass = pixel.log_prob(torch.arange(2000.0)).exp().double().sum().item()
    assert mass == pytest.approx(1.0, abs=rounding(20) * 10)


def test_categorical_levels_are_numbers() -> None:
    pixel = Levels(logits=torch.randn(4, 7))
    levels = torch.arange(7.0)
    assert_rounded(pixel.mean, pixel.probs @ levels, terms=14)
    assert pixel.sample((3,)).dtype == torch.float32
    assert torch.equal(pixel.mode, pixel.probs.argmax(-1).float())


@pytest.mark.parametrize(
    ("own", "torchs", "parameters"),
    [
        (distributions.Beta, dist.Beta, (1e4, 2e4)),
        (distributions.Beta, dist.Beta, (0.01, 0.02)),
        (distributions.StudentT, dist.StudentT, (1000.0, 0.3, 0.1)),
        (distributions.StudentT, dist.StudentT, (0.5, 0.3, 0.1)),
    ],
)
def test_log_gammas_keep_their_digits(
    own: type, torchs: type, parameters: tuple[float, ...]
) -> None:
    values = [torch.full((784,), p) for p in parameters]
    p_x = own(*values)
    x = p_x.sample().clamp(1e-6, 1 - 1e-6)
    exact = torchs(*(v.double() for v in values)).log_prob(x.double())
    log_prob = p_x.log_prob(x)
    assert log_prob.dtype == torch.float32
    assert_rounded(log_prob, exact, terms=2)  # computed in float64, and rounded
    assert p_x.expand((2, 784)).log_prob(x).shape == (2, 784)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_huge_rates_are_no_overflow(dtype: torch.dtype) -> None:
    """torch counts in int64: a rate of 1e20 drew -9.2e18, and 1e18 had a variance of 1.5e18."""
    rates = torch.tensor([4e9, 1e11, 1e20, 1e30], dtype=dtype)
    torch.manual_seed(0)
    drawn = distributions.Poisson(rates.log()).sample((4000,)).double()
    p_x = distributions.Poisson(rates.log())
    assert (drawn > 0).all()
    if dtype == torch.float64:
        standard = (drawn - p_x.rate) / p_x.rate.sqrt()
        assert (standard.mean(0).abs() < 4 / 4000**0.5).all()
        assert ((standard.var(0) - 1).abs() < 4 * (2 / 4000) ** 0.5).all()
    else:
        most = 5 / p_x.rate.double().sqrt() + 1e-6
        assert ((drawn / p_x.rate - 1).abs() < most).all()
    huge = distributions.Poisson(torch.tensor([1e4], dtype=dtype))
    assert huge.sample().isposinf().all()
    counts = distributions.NegativeBinomial(torch.ones(500), logits=torch.full((500,), 60.0))
    assert (counts.sample() > 0).all()
    torch.manual_seed(1)
    small = distributions.Poisson(torch.zeros(50)).sample()
    torch.manual_seed(1)
    assert torch.equal(small, torch.poisson(torch.ones(50)))
