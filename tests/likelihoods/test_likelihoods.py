"""Likelihoods: formulas, mass one, draws that follow their density."""

import itertools
import math
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae import elbo, likelihoods
from pyro_vae.distributions import DiscretizedLogistic, same_support

from ..quadrature import nodes
from ..swaps import LEVELS, LIKELIHOODS, X_DIM, likelihood_of, vae_of
from ..tolerances import rounding, within
from ..vaes import Given

PIXELS = sorted(n for n in LIKELIHOODS if n != "Columns" and not n.startswith("Observed"))
"""Those whose elements are all of one kind, and each has a formula."""


def test_bernoulli_is_the_lectures_cross_entropy() -> None:
    logits = torch.randn(4, 3, 2).double()
    x = torch.bernoulli(torch.full((4, 3, 2), 0.5)).double()
    y = torch.sigmoid(logits)
    lecture = (x * y.log() + (1 - x) * (1 - y).log()).sum((1, 2))
    for relaxed in (False, True):
        p_x = likelihoods.Bernoulli(Given(3, 2), relaxed=relaxed)(logits)
        assert torch.allclose(p_x.log_prob(x), lecture, rtol=1e-12)
    grey = torch.rand(4, 3, 2).double()
    lecture = (grey * y.log() + (1 - grey) * (1 - y).log()).sum((1, 2))
    assert torch.allclose(p_x.log_prob(grey), lecture, rtol=1e-12)


def test_gaussian_with_scale_from_the_network_is_the_lectures() -> None:
    numbers = torch.randn(4, 2, 3, 5).double()
    mean, scale = numbers[:, 0], torch.log1p(numbers[:, 1].exp()) + 1 / 256
    x = torch.randn(4, 3, 5).double()
    lecture = -(0.5 * (scale**2).log() + (x - mean) ** 2 / (2 * scale**2)).sum((1, 2))
    p_x = likelihoods.Gaussian(Given(2, 3, 5), scale="pixel")(numbers)
    constant = -15 / 2 * math.log(2 * math.pi)  # which the lecture leaves out
    assert torch.allclose(p_x.log_prob(x), lecture + constant, rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.7, "shared"])
def test_gaussian_of_one_scale_is_squared_error(scale: float | str) -> None:
    mean, x = torch.randn(2, 4, 7).double()
    likelihood = likelihoods.Gaussian(Given(7), scale=scale).double()
    sigma = 1.0 if scale == "shared" else float(scale)
    lecture = -((x - mean) ** 2).sum(1) / (2 * sigma**2)
    constant = -7 / 2 * math.log(2 * math.pi) - 7 * math.log(sigma)
    # A shared scale starts as a float32 parameter; a fixed one is exact in any dtype.
    rtol = 1e-6 if scale == "shared" else 1e-12
    assert torch.allclose(likelihood(mean).log_prob(x), lecture + constant, rtol=rtol)
    assert [n for n, _ in likelihood.named_parameters()] == (
        ["raw_scale"] if scale == "shared" else []
    )


def test_bernoulli_sums_to_one() -> None:
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).double()
    for relaxed in (False, True):
        p_x = likelihoods.Bernoulli(Given(6), relaxed)(5 * torch.randn(6).double())
        assert p_x.log_prob(every).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("scale", ["pixel", "shared", 0.3])
def test_gaussian_integrates_to_one(scale: float | str) -> None:
    likelihood = likelihoods.Gaussian(
        Given(2, 1) if scale == "pixel" else Given(1),
        scale=scale,
    ).double()
    line = torch.linspace(-30, 30, 60001).double()
    p_x = likelihood(torch.randn(2, 1).double() if scale == "pixel" else torch.randn(1).double())
    total = torch.trapezoid(p_x.log_prob(line[:, None]).exp(), line)
    assert total.item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("logit", [20.0, 80.0, -80.0])
def test_bernoulli_keeps_precision_at_large_logits(logit: float) -> None:
    for relaxed in (False, True):
        p_x = likelihoods.Bernoulli(Given(1), relaxed)(torch.tensor([logit]))
        for x in (0.0, 1.0):
            exact = -math.log1p(math.exp(-logit if x else logit))
            # exp(-|l|) has the relative error of its argument.
            error = (2 * abs(logit) + 8) * rounding(1)
            assert p_x.log_prob(torch.tensor([x])).item() == pytest.approx(exact, rel=error)


def softplus(x: Tensor) -> Tensor:
    return nn.functional.softplus(x)


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (
            likelihoods.Laplace,
            (2, 3),
            lambda n: dist.Laplace(n[:, 0], softplus(n[:, 1]) + 1 / 256),
        ),
        (
            lambda network: likelihoods.Laplace(network, scale=0.3),
            (3,),
            lambda n: dist.Laplace(n, 0.3),
        ),
        (
            lambda network: likelihoods.Laplace(network, scale="shared"),
            (3,),
            lambda n: dist.Laplace(n, 1.0),
        ),
        (
            lambda network: likelihoods.StudentT(network, df=2.5),
            (2, 3),
            lambda n: dist.StudentT(2.5, n[:, 0], softplus(n[:, 1]) + 1 / 256),
        ),
        (
            likelihoods.Beta,
            (2, 3),
            lambda n: dist.Beta(softplus(n[:, 0]) + 1e-3, softplus(n[:, 1]) + 1e-3),
        ),
        (likelihoods.Poisson, (3,), lambda n: dist.Poisson(n.exp() + 1e-4)),
        (
            likelihoods.NegativeBinomial,
            (2, 3),
            # The mean is r p / (1 - p).
            lambda n: dist.NegativeBinomial(
                softplus(n[:, 1]) + 1e-4,
                probs=n[:, 0].exp() / (n[:, 0].exp() + softplus(n[:, 1]) + 1e-4),
            ),
        ),
        (
            lambda network: likelihoods.Categorical(network, LEVELS),
            (LEVELS, 3),
            lambda n: dist.Categorical(logits=n.mT),
        ),
        (
            lambda network: likelihoods.DiscretizedLogistic(network, LEVELS),
            (2, 3),
            lambda n: DiscretizedLogistic(
                torch.zeros(5, 3, 1).double(),
                n[:, 0, :, None],
                softplus(n[:, 1, :, None]) + 1 / (8 * (LEVELS - 1)),
                LEVELS,
            ),
        ),
        (
            lambda network: likelihoods.DiscretizedLogistic(network, LEVELS, components=2),
            (6, 3),
            lambda n: DiscretizedLogistic(
                n[:, 0:2].mT, n[:, 2:4].mT, softplus(n[:, 4:6].mT) + 1 / (8 * (LEVELS - 1)), LEVELS
            ),
        ),
    ],
)
def test_likelihoods_are_their_formulas(
    make: Callable[[nn.Module], nn.Module],
    shape: tuple[int, ...],
    expected: Callable[[Tensor], Distribution],
) -> None:
    numbers = 2 * torch.randn(5, *shape).double()
    p_x = make(Given(*shape)).double()(numbers)
    x = torch.randint(1, LEVELS, (5, 3)).double()
    x = x / LEVELS if not p_x.support.is_discrete else x
    pixels = expected(numbers)
    torch.testing.assert_close(p_x.log_prob(x), pixels.log_prob(x).sum(-1))
    if not isinstance(pixels, dist.Categorical):
        torch.testing.assert_close(p_x.mean, pixels.mean)


@pytest.mark.parametrize("name", PIXELS)
def test_likelihoods_have_mass_one(name: str) -> None:
    p_x = likelihood_of(name, 2).double()(3 * torch.randn(4, 2).double())
    pixels = p_x.base_dist.expand(p_x.batch_shape + p_x.event_shape)
    if p_x.support.is_discrete:
        ends = {"Bernoulli": 2, "Poisson": 2000, "NegativeBinomial": 20000}
        values = torch.arange(ends.get(name, LEVELS)).double()
        mass = pixels.log_prob(values[:, None, None].expand(-1, 4, X_DIM)).exp().sum(0)
        torch.testing.assert_close(mass, torch.ones(4, X_DIM).double(), rtol=1e-8, atol=0)
        return
    box = same_support(p_x.support, torch.distributions.constraints.unit_interval)
    values, weights = nodes(box)
    mass = pixels.log_prob(values[:, None, None].expand(-1, 4, X_DIM)).exp()
    mass = (weights[:, None, None] * mass).sum(0)
    # What the nodes leave out at the ends of the box counts where a Beta is infinite there.
    tolerance = 1e-3 if name == "Beta" else 1e-6
    torch.testing.assert_close(mass, torch.ones(4, X_DIM).double(), rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", PIXELS)
def test_draws_follow_their_density(name: str) -> None:
    """Mean and variance of draws are those of the distribution; they lie on its support."""
    p_x = likelihood_of(name, 2)(torch.randn(2, 2))
    draws = p_x.sample((20_000,))
    assert p_x.support.check(draws).all()
    within(draws.double(), p_x.mean)
    if name not in ("StudentT", "ContinuousBernoulli", "DiscretizedLogistic"):
        variance = getattr(p_x.base_dist, "variance", None) if "Logistic" not in name else None
        if variance is not None:
            within((draws.double() - p_x.mean).square(), variance)


def test_a_beta_is_no_density_at_its_ends() -> None:
    vae = vae_of("StandardNormal", "Normal", "Beta")
    with pytest.raises(ValueError, match=r"x: got 0 at 1 of 6 .* OpenInterval\(0, 1\)"):
        elbo(vae, torch.tensor([[0.0, 0.5, 0.2], [0.2, 0.3, 0.4]]))
    assert same_support(vae.likelihood(torch.zeros(2)).support, constraints.unit_interval)
