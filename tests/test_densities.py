"""The densities of the parts: mass one, exact values, draws that follow them, gradients."""

import copy
import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, kl_divergence

from pyro_vae import VAE, datasets, elbo, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.distributions import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    Levels,
    LowRankNormal,
    Mixture,
    NegativeBinomial,
    NormalMixture,
    flows,
    same_support,
)

from .swaps import (
    LEVELS,
    LIKELIHOODS,
    PAIRS,
    POSTERIORS,
    PRIORS,
    X_DIM,
    data,
    likelihood_of,
    posterior_for,
    vae_of,
)


class Given(nn.Module):
    """A network that gives what it is given."""

    out_shape: tuple[int, ...]

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers


def within(values: Tensor, expected: Tensor | float, errors: float = 5.0) -> None:
    """Holds the mean of independent values against a number, by its standard error."""
    stderr = values.std(0) / len(values) ** 0.5
    assert ((values.mean(0) - expected).abs() <= errors * stderr + 1e-12).all()


def nodes(box: bool) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1) or on all reals, dense at the ends (double exponential).

    Source: Takahasi and Mori (1974).
    """
    end, points = (2.9, 4001) if box else (4.5, 8001)
    t = torch.linspace(-end, end, points, dtype=torch.float64)
    inner, step = math.pi / 2 * t.sinh(), t[1] - t[0]
    if box:
        return (1 + inner.tanh()) / 2, step * math.pi / 4 * t.cosh() / inner.cosh().square()
    return inner.sinh(), step * math.pi / 2 * t.cosh() * inner.cosh()


# Mass one.


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
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


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
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
    torch.testing.assert_close(log_prob[1:-1], slope[1:-1], rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(log_prob.sum(), far)
    assert gradient.item() == pytest.approx(-255, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_continuous_bernoulli_is_exact(dtype: torch.dtype) -> None:
    """Against the integral of exp(x l), at logits where torch's own is clamped or cut out too."""
    logits = [-300.0, -20.0, -1.0, -0.501, -0.499, -0.01, 1e-6, 0.0, 0.1, 0.6, 5.0, 20.0, 90.0]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    places, weights = nodes(box=True)
    for logit in logits:
        top = max(logit, 0.0)  # exp((x - 1) l) for l > 0, which does not overflow
        density = weights * (places * logit - top).exp()
        integral = density.sum().item()
        q = ContinuousBernoulli(torch.tensor(logit, dtype=dtype))
        for x in (0.0, 0.25, 1.0):
            expected = x * logit - top - math.log(integral)
            got = q.log_prob(torch.tensor(x, dtype=dtype)).item()
            assert got == pytest.approx(expected, rel=tolerance, abs=tolerance), (logit, x)
        mean = (places * density).sum().item() / integral
        assert q.mean.item() == pytest.approx(mean, rel=tolerance), logit
    known = ContinuousBernoulli(torch.tensor(20.0)).log_prob(torch.tensor(0.0))
    assert known.item() == pytest.approx(-17.00, abs=0.005)


def test_continuous_bernoulli_draws_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the least and the greatest numbers that ``torch.rand`` gives in float32."""
    u = torch.tensor([0.0, 2**-24, 2**-23, 0.5, 1 - 2**-23, 1 - 2**-24])
    for logit in (-1e4, -90.0, -18.0, -0.02, 0.0, 0.3, 15.0, 18.0, 39.0, 41.0, 90.0, 1e4):
        l = torch.full((6,), logit, requires_grad=True)  # noqa: E741
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda *_, **__: u)
            x = ContinuousBernoulli(l).rsample()
        assert ((x >= 0) & (x <= 1)).all(), logit
        assert (x.diff() >= 0).all(), logit
        (gradient,) = torch.autograd.grad(x.sum(), l)
        assert torch.isfinite(gradient).all(), logit


def test_the_continuous_bernoulli_at_great_logits() -> None:
    """At x = 1 the log-density is log l, as far as float32 goes."""
    for logit in (1e5, 1e8, 3e9):
        for sign, x in ((1, 1.0), (-1, 0.0)):
            q = ContinuousBernoulli(torch.tensor(sign * logit, requires_grad=True))
            assert q.log_prob(torch.tensor(x)).item() == pytest.approx(math.log(logit), rel=1e-6)
            (gradient,) = torch.autograd.grad(q.mean, q.logits)
            assert torch.isfinite(gradient)


def test_negative_binomials_become_poissons() -> None:
    counts, mean = torch.arange(60.0), torch.tensor(20.0)
    r = torch.tensor(1e6)
    pixel = NegativeBinomial(r, logits=mean.log() - r.log())
    expected = dist.Poisson(mean).log_prob(counts)
    torch.testing.assert_close(pixel.log_prob(counts), expected, rtol=0, atol=2e-3)
    assert pixel.log_prob(torch.arange(2000.0)).exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_a_beta_is_no_density_at_its_ends() -> None:
    vae = vae_of("StandardNormal", "Normal", "Beta")
    with pytest.raises(ValueError, match=r"x: got 0 at 1 of 6 .* OpenInterval\(0, 1\)"):
        elbo(vae, torch.tensor([[0.0, 0.5, 0.2], [0.2, 0.3, 0.4]]))
    assert same_support(vae.likelihood(torch.zeros(2)).support, constraints.unit_interval)


def test_squashed_takes_posteriors_over_all_reals() -> None:
    box = posterior_for("Uniform", "Normal", 2)
    with pytest.raises(ValueError, match=r"its support is OpenInterval\(-2, 3\), expected"):
        posteriors.Squashed(box, 0.0, 1.0)(torch.rand(2, X_DIM))


def test_boxes_are_compared_by_their_width() -> None:
    a, b = priors.Uniform(1, 1000.0, 1000.001)().support, priors.Uniform(1, 1000.005, 1000.006)()
    assert not same_support(a, b.support)


@pytest.mark.parametrize("name", ["Flow", "Squashed"])
def test_scores_follow_changes_in_place(name: str) -> None:
    module = POSTERIORS["Flow"](2) if name == "Flow" else posterior_for("Uniform", "Normal", 2)
    q_z = module(torch.rand(3, X_DIM))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            z = q_z.sample()
            z.mul_(0.5)
            torch.testing.assert_close(q_z.log_prob(z), q_z.log_prob(z.clone()))


def test_kl_forms_of_pyro_are_left_alone() -> None:
    delta = dist.Delta(torch.ones(2)).to_event(1)
    normal = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert kl_divergence(delta, normal).item() == pytest.approx(-normal.log_prob(torch.ones(2)))


def test_the_continuous_bernoulli_has_its_gradients() -> None:
    for logit in (-20.0, -0.6, -0.3, -0.009, 0.0, 0.02, 0.4, 3.0, 40.0):
        l = torch.tensor([logit]).double().requires_grad_()  # noqa: E741
        x = torch.tensor([0.3]).double()
        assert torch.autograd.gradcheck(lambda l: ContinuousBernoulli(l).log_prob(x), (l,))  # noqa: B023, E741

        def draw(l: Tensor) -> Tensor:  # noqa: E741
            torch.manual_seed(2)
            return ContinuousBernoulli(l).rsample((5,))

        assert torch.autograd.gradcheck(draw, (l,))
        torch.manual_seed(2)
        u = torch.rand(5, 1, dtype=torch.float64)
        inverse = u if logit == 0 else torch.log1p(u * math.expm1(logit)) / logit
        torch.testing.assert_close(draw(l), inverse, rtol=1e-6, atol=1e-9)
        draws = ContinuousBernoulli(l.detach()).sample((20_000,))
        within(draws, ContinuousBernoulli(l.detach()).mean)


def test_categorical_levels_are_numbers() -> None:
    pixel = Levels(logits=torch.randn(4, 7))
    levels = torch.arange(7.0)
    torch.testing.assert_close(pixel.mean, pixel.probs @ levels)
    assert pixel.sample((3,)).dtype == torch.float32
    assert torch.equal(pixel.mode, pixel.probs.argmax(-1).float())


# Which of the network's numbers is what.


def softplus(x: Tensor) -> Tensor:
    return nn.functional.softplus(x)


def given(out_shape: tuple[int, ...] | int) -> Given:
    network = Given()
    network.out_shape = (out_shape,) if isinstance(out_shape, int) else out_shape
    return network


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
    p_x = make(given(shape)).double()(numbers)
    x = torch.randint(1, LEVELS, (5, 3)).double()
    x = x / LEVELS if not p_x.support.is_discrete else x
    pixels = expected(numbers)
    torch.testing.assert_close(p_x.log_prob(x), pixels.log_prob(x).sum(-1))
    if not isinstance(pixels, dist.Categorical):
        torch.testing.assert_close(p_x.mean, pixels.mean)


def test_posteriors_are_their_formulas() -> None:
    z = torch.randn(5, 2).double()

    def scale(raw: Tensor) -> Tensor:
        return softplus(raw) + 1e-4

    def check(module: nn.Module, numbers: Tensor, expected: Distribution) -> None:
        torch.testing.assert_close(module.double()(numbers).log_prob(z), expected.log_prob(z))

    n = torch.randn(5, 15).double()
    check(
        posteriors.Normal(given(4)),
        n[:, :4],
        Independent(dist.Normal(n[:, :2], scale(n[:, 2:4])), 1),
    )
    factor = n[:, 4:10].view(5, 2, 3) / 3**0.5
    covariance = factor @ factor.mT + torch.diag_embed(scale(n[:, 2:4]).square())
    normal = dist.MultivariateNormal(n[:, :2], covariance)
    check(posteriors.LowRankNormal(given(10), rank=3), n[:, :10], normal)
    tril = torch.diag_embed(scale(n[:, 2:4]))
    tril[:, 1, 0] = n[:, 4]
    normal = dist.MultivariateNormal(n[:, :2], tril @ tril.mT)
    check(posteriors.MultivariateNormal(given(5)), n[:, :5], normal)
    each = n.view(5, 3, 5)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=each[..., 0]),
        dist.Normal(each[..., 1:3], scale(each[..., 3:5])).to_event(1),
    )
    check(posteriors.Mixture(given(15), components=3), n, mixture)
    # The flow starts as the identity, so as the normal that the first numbers give.
    check(
        posteriors.Flow(given(7), 2),
        n[:, :7],
        Independent(dist.Normal(n[:, :2], scale(n[:, 2:4])), 1),
    )


def test_multivariate_normals_fill_their_rows() -> None:
    n = torch.arange(9.0).double()
    tril = posteriors.MultivariateNormal(given(9))(n).scale_tril
    expected = torch.diag(softplus(n[3:6]) + 1e-4)
    expected[1, 0], expected[2, 0], expected[2, 1] = 6.0, 7.0, 8.0
    torch.testing.assert_close(tril, expected)


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("name", sorted(POSTERIORS))
def test_posteriors_have_mass_one(name: str, squashed: bool) -> None:
    module = (posterior_for("Uniform", name, 1) if squashed else POSTERIORS[name](1)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    places, weights = nodes(box=squashed)
    if squashed:
        places, weights = 5 * places - 2, 5 * weights
    log_prob = module(torch.rand(X_DIM).double()).log_prob(places[:, None])
    assert (weights * log_prob.exp()).sum().item() == pytest.approx(1.0, abs=1e-6)


def test_priors_are_their_formulas() -> None:
    z = torch.randn(5, 2)
    for prior, expected in [
        (priors.StandardNormal(2), dist.Normal(0.0, 1.0)),
        (priors.Laplace(2), dist.Laplace(0.0, 1.0)),
        (priors.StudentT(2, df=2.5), dist.StudentT(2.5)),
        (priors.Flow(2), dist.Normal(0.0, 1.0)),  # where it starts
    ]:
        torch.testing.assert_close(prior().log_prob(z), expected.log_prob(z).sum(-1))
    box = priors.Uniform(2, -3.0, 5.0)().log_prob(z.clamp(-3, 4))
    torch.testing.assert_close(box, torch.full((5,), -2 * math.log(8)))
    mixture = priors.GaussianMixture(20, components=2000)()
    torch.testing.assert_close(mixture.mean, torch.zeros(20), atol=0.1, rtol=0)
    torch.testing.assert_close(mixture.variance, torch.ones(20), atol=0.1, rtol=0)
    assert mixture.mixture_distribution.probs.unique().numel() == 1
    scale = mixture.component_distribution.base_dist.scale
    torch.testing.assert_close(scale, torch.full_like(scale, 0.5**0.5))


# Shapes, dtypes, copies.


@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_work_on_any_batch(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    """Each row of a batch is what it would be alone; ``expand`` repeats it."""
    x = torch.rand(*batch, X_DIM, dtype=dtype)
    z = torch.randn(*batch, 2, dtype=dtype)
    cases: list[tuple[nn.Module, Tensor, tuple[int, ...]]] = [
        (make(2).to(dtype), x, (2,)) for make in POSTERIORS.values()
    ]
    cases += [(posterior_for("Uniform", name, 2).to(dtype), x, (2,)) for name in POSTERIORS]
    cases += [(likelihood_of(name, 2).to(dtype), z, (X_DIM,)) for name in LIKELIHOODS]
    for module, given, event in cases:
        conditional = module(given)
        assert (conditional.batch_shape, conditional.event_shape) == (batch, event)
        torch.manual_seed(0)
        value = conditional.sample((4,))
        assert value.shape == (4, *batch, *event)
        log_prob = conditional.log_prob(value)
        assert log_prob.shape == (4, *batch)
        assert log_prob.dtype == dtype
        if batch:
            alone = module(given[-1])
            torch.testing.assert_close(
                alone.log_prob(value[:, -1]), log_prob[:, -1], rtol=1e-4, atol=1e-4
            )
        wider = conditional.expand((4, *batch))
        torch.testing.assert_close(wider.log_prob(value), log_prob)
        assert wider.sample().shape == value.shape
    for name, make in PRIORS.items():
        p_z = make(2, POSTERIORS["Normal"](2)).to(dtype)()
        assert (p_z.batch_shape, p_z.event_shape) == ((), (2,)), name
        value = p_z.sample((4, *batch))
        assert value.dtype == dtype
        wider = p_z.expand((4, *batch))
        torch.testing.assert_close(wider.log_prob(value), p_z.log_prob(value))
        assert wider.sample().shape == value.shape


def test_nothing_but_parameters_and_buffers_holds_tensors() -> None:
    """What a module holds otherwise would not follow it to another device."""
    modules = [vae_of(*pair) for pair in PAIRS]
    modules += [vae_of("StandardNormal", "Normal", likelihood) for likelihood in LIKELIHOODS]
    for module in modules:
        for part in module.modules():
            assert not [k for k, v in vars(part).items() if isinstance(v, Tensor)], part


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_no_draw_is_kept(prior: str, posterior: str) -> None:
    vae = vae_of(prior, posterior)
    x = data("Bernoulli")
    q_z, p_z = vae.posterior(x), vae.prior()
    z = q_z.rsample()
    q_z.log_prob(z), p_z.log_prob(z)
    kept = weakref.ref(z)
    del z, q_z, p_z
    gc.collect()
    assert kept() is None


def test_a_mixture_holds_itself_in_no_circle() -> None:
    """What only the garbage collector finds, a GPU's memory does not wait for."""
    gc.collect()
    gc.disable()
    try:
        q = NormalMixture(torch.zeros(2), torch.zeros(2, 3), torch.ones(2, 3))
        loc = weakref.ref(q.component_distribution.base_dist.loc)
        q.log_prob(q.expand((4,)).sample())
        del q
        assert loc() is None
    finally:
        gc.enable()


def test_expanded_mixtures_score_with_their_batch() -> None:
    q = NormalMixture(torch.zeros(2), torch.randn(2, 3), torch.ones(2, 3))
    z = torch.zeros(3)
    assert torch.equal(q.expand((4,)).log_prob(z), q.log_prob(z).expand(4))
    assert q.expand((4,)).expand((5, 4)).log_prob(torch.zeros(4, 3)).shape == (5, 4)


# Pathwise gradients.


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("name", sorted(set(POSTERIORS) - {"Mixture"}))
def test_pathwise_gradients_are_those_of_differences(name: str, squashed: bool) -> None:
    """Of draws, and of their log-density, by each number that the network gives."""
    module = (posterior_for("Uniform", name, 2) if squashed else POSTERIORS[name](2)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    inner = module.posterior if squashed else module
    numbers = inner.network(torch.rand(2, X_DIM).double()).detach().requires_grad_()
    inner.network = Given()

    def draw(numbers: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        q_z = module(numbers)
        z = q_z.rsample()
        return z, q_z.log_prob(z)

    assert torch.autograd.gradcheck(draw, (numbers,))


@pytest.mark.parametrize("part", ["prior", "posterior"])
def test_a_flows_weights_have_pathwise_gradients(part: str) -> None:
    """Along one random direction of all weights, by central differences."""
    module: nn.Module = priors.Flow(2, transforms=2, hidden=(8,)).double()
    x: tuple[Tensor, ...] = ()
    if part == "posterior":
        module, x = POSTERIORS["Flow"](2).double(), (torch.rand(3, X_DIM).double(),)
    weights = list(module.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.3 * torch.randn_like(weight))
    direction = [torch.randn_like(weight) for weight in weights]

    def draw(step: float) -> Tensor:
        with torch.no_grad():
            for weight, change in zip(weights, direction, strict=True):
                weight.add_(step * change)
        torch.manual_seed(1)
        z = module(*x).rsample((4,))
        return (z * torch.arange(z.numel()).view_as(z)).sum()

    gradients = torch.autograd.grad(draw(0.0), weights)
    expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    step = 1e-6
    difference = (draw(step) - draw(-2 * step)) / (2 * step)
    torch.testing.assert_close(difference, torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("z_dim", [1, 3])
def test_a_mixtures_implicit_gradients_are_right_in_the_mean(z_dim: int) -> None:
    """Of E[a'z + (b'z)^2], whose closed form autograd differentiates."""
    logits, loc = torch.randn(3).double(), torch.randn(3, z_dim).double()
    raw = torch.randn(3, z_dim).double()
    a, b = torch.randn(2, z_dim).double()
    parameters = tuple(t.requires_grad_() for t in (logits, loc, raw))

    def expectation() -> Tensor:
        weights, scale = logits.softmax(0), raw.exp()
        means = loc @ b
        second = means.square() + scale.square() @ b.square()
        return (weights * (loc @ a + second)).sum()

    exact = torch.autograd.grad(expectation(), parameters)
    estimates = []
    for _ in range(100):
        z = NormalMixture(logits, loc, raw.exp()).rsample((1000,))
        value = (z @ a + (z @ b).square()).mean()
        gradients = torch.autograd.grad(value, parameters)
        estimates.append(torch.cat([g.flatten() for g in gradients]))
    within(torch.stack(estimates), torch.cat([g.flatten() for g in exact]))


def test_implicit_gradients_keep_their_digits_in_float32() -> None:
    """Where narrow components are far from z, their log-densities are of millions."""
    gradients = []
    logits, loc = torch.randn(3), torch.randn(3, 4)
    scale = torch.ones(3, 4)
    scale[1:, 1:] = 1e-4
    z = NormalMixture(logits, loc, scale).sample((200,))
    for dtype in (torch.float32, torch.float64):
        parameters = [t.to(dtype).requires_grad_() for t in (logits, loc, scale)]
        u, du_dz = NormalMixture(*parameters)._uniform(z.to(dtype))
        implied = torch.linalg.solve_triangular(du_dz, u.unsqueeze(-1), upper=False)
        gradients.append(torch.autograd.grad(implied[:, 0].sum(), parameters[:1])[0].double())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_a_mixtures_draws_follow_its_density() -> None:
    q = NormalMixture(torch.randn(2, 3), torch.randn(2, 3, 2), torch.rand(2, 3, 2) + 0.1)
    draws = q.sample((50_000,)).double()
    within(draws, q.mean)
    within((draws - q.mean).square(), q.variance)


# The matrix products of mixtures without batch dimensions, and VampPrior.


def test_mixtures_score_by_matrix_products_as_exactly_as_without() -> None:
    """Narrow components far from zero, where the three terms nearly cancel."""
    loc, scale = 5 * torch.randn(20, 8), torch.rand(20, 8) * 1e-2 + 1e-4
    q = NormalMixture(torch.randn(20), loc, scale)
    z = (loc + scale * torch.randn(30, 20, 8)).flatten(0, 1)
    exact = dist.MixtureSameFamily(
        dist.Categorical(logits=q.mixture_distribution.logits.double()),
        dist.Normal(loc.double(), scale.double()).to_event(1),
    ).log_prob(z.double())
    torch.testing.assert_close(q.log_prob(z).double(), exact, rtol=1e-5, atol=1e-4)
    expanded = q.expand((600,))
    assert torch.equal(expanded.log_prob(z), q.log_prob(z))


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
    torch.testing.assert_close(prior.pseudo_inputs, given)
    part = (given - low) / (high - low) if math.isfinite(high) else given
    torch.testing.assert_close(prior.raw.detach(), part)
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


# Closed forms of the KL.


def quadrature_kl(q: Distribution, p: Distribution) -> float:
    line = torch.linspace(-20, 20, 2001, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_q = q.log_prob(z)
    area = (line[1] - line[0]).square()
    return (log_q.exp() * (log_q - p.log_prob(z))).sum().mul(area).item()


def normals() -> dict[str, Distribution]:
    torch.manual_seed(4)
    loc, scale = torch.randn(2).double(), torch.rand(2).double() + 0.5
    tril = torch.tensor([[0.9, 0.0], [-0.6, 0.7]]).double()
    return {
        "diagonal": dist.Normal(loc, scale).to_event(1),
        "full": dist.MultivariateNormal(loc + 0.3, scale_tril=tril),
        "low-rank": dist.LowRankMultivariateNormal(loc, torch.randn(2, 1).double(), scale),
        "laplace": dist.Laplace(loc - 0.2, scale).to_event(1),
    }


@pytest.mark.parametrize("p", ["diagonal", "full", "low-rank", "laplace"])
@pytest.mark.parametrize("q", ["diagonal", "full", "low-rank"])
def test_closed_forms_are_the_integral(q: str, p: str) -> None:
    first, second = normals()[q], normals()[p]
    if (q, p) == ("diagonal", "laplace") or "laplace" not in (q, p) or q != "laplace":
        expected = quadrature_kl(first, second)
        # The grid of h = 0.02 has an error of h^2 / 12 times the jump at the Laplace's edge.
        assert kl_divergence(first, second).item() == pytest.approx(expected, abs=1e-4)
        batch = first.expand((3,))
        torch.testing.assert_close(
            kl_divergence(batch, second.expand((3,))),
            kl_divergence(first, second).expand(3),
        )


def test_pairs_without_a_closed_form_have_none() -> None:
    q = dist.StudentT(torch.ones(2)).to_event(1)
    for p in (normals()["full"], normals()["low-rank"]):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
        with pytest.raises(NotImplementedError):
            kl_divergence(p, q)
    assert isinstance(q, Independent)


# Zuko's flows.


@pytest.mark.parametrize("validates", [True, False])
def test_zuko_leaves_validation_as_it_was(validates: bool) -> None:
    """Its import switches torch's off, once in a process."""
    code = f"""
import pyro
from torch.distributions import Distribution
from pyro_vae import priors
pyro.enable_validation({validates})
priors.Flow(2)()
print(Distribution._validate_args)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(validates)


def flow_posterior() -> tuple[nn.Module, Tensor]:
    module = POSTERIORS["Flow"](3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double(), torch.rand(4, X_DIM).double()


def test_a_flow_scores_its_own_draws_as_any_other_value() -> None:
    module, x = flow_posterior()
    q_z = module(x)
    z = q_z.rsample((5,))
    torch.testing.assert_close(q_z.log_prob(z), q_z.log_prob(z.clone()))
    before = q_z.log_prob(z).detach()
    with torch.no_grad():
        z.add_(0.1)
    torch.testing.assert_close(q_z.log_prob(z), q_z.log_prob(z.clone()))
    assert not torch.allclose(q_z.log_prob(z), before)


def test_a_flow_scores_its_draws_in_one_pass() -> None:
    """What took z_dim passes would call the step's network as often."""
    module, x = flow_posterior()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for step in module.flow.steps.modules():
        if hasattr(step, "hyper"):
            step.hyper.register_forward_hook(count)
    q_z = module(x)
    q_z.log_prob(q_z.rsample())
    assert calls == 2  # two transforms


def test_gradients_are_not_lost_to_draws_made_without() -> None:
    module, x = flow_posterior()
    q_z = module(x)
    z = q_z.sample()
    assert not z.requires_grad
    assert q_z.log_prob(z).requires_grad
    with torch.no_grad():
        assert not q_z.log_prob(z).requires_grad


def test_flow_priors_serve_pyros_samplers() -> None:
    prior = priors.Flow(2, transforms=1, hidden=(8,))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))

    def model() -> Tensor:
        return pyro.sample("z", prior())

    draws = Predictive(model, num_samples=20_000, parallel=True)()["z"].squeeze(-2)
    assert draws.shape == (20_000, 2)
    exact = prior().sample((20_000,))
    pooled = (exact.var(0) / 20_000 + draws.var(0) / 20_000).sqrt()
    assert ((draws.mean(0) - exact.mean(0)).abs() < 5 * pooled).all()
    chain = MCMC(NUTS(model), num_samples=150, warmup_steps=100, disable_progbar=True)
    chain.run()
    z = chain.get_samples()["z"]
    # At least thirty independent draws among the 150.
    assert ((z.mean(0) - exact.mean(0)).abs() < 5 * exact.std(0) / 30**0.5).all()


@pytest.mark.parametrize("prior", ["GaussianMixture", "VampPrior"])
def test_mixtures_serve_nuts(prior: str) -> None:
    p = PRIORS[prior](2, POSTERIORS["Normal"](2))
    assert same_support(p().support, torch.distributions.constraints.real_vector)
    chain = MCMC(
        NUTS(lambda: pyro.sample("z", p())), num_samples=60, warmup_steps=60, disable_progbar=True
    )
    chain.run()
    assert torch.isfinite(chain.get_samples()["z"]).all()


def test_mixtures_of_squashed_normals_have_the_box_as_support() -> None:
    q = posterior_for("Uniform", "Normal", 2)
    p_z = priors.VampPrior(q, torch.rand(4, X_DIM))()
    assert isinstance(p_z, Mixture)
    assert same_support(p_z.support, priors.Uniform(2, -2.0, 3.0)().support)


def test_ends_that_all_but_agree_do_not() -> None:
    """A draw in the gap would have no prior density, and an error far from its cause."""
    vae = VAE(
        priors.Uniform(2),
        likelihood_of("Bernoulli", 2),
        posteriors.Squashed(POSTERIORS["Normal"](2), 0.0, 1.000005),
    )
    with pytest.raises(ValueError, match=r"posterior: its support is .*expected the prior's"):
        vae.guide(data("Bernoulli"))


def test_squashed_posteriors_have_no_density_at_the_ends() -> None:
    q_z = posterior_for("Uniform", "Normal", 2)(torch.rand(1, X_DIM))
    for end in (-2.0, 3.0):
        with pytest.raises(ValueError, match="support"):
            q_z.log_prob(torch.tensor([[0.0, end]]))


def test_open_intervals_are_reached_as_closed_ones_are() -> None:
    y = torch.randn(5)
    support = posterior_for("Uniform", "Normal", 2)(torch.rand(1, X_DIM)).support.base_constraint
    for registry in (torch.distributions.biject_to, torch.distributions.transform_to):
        closed = registry(constraints.interval(-2.0, 3.0))
        torch.testing.assert_close(registry(support)(y), closed(y))


def test_squashed_draws_stay_inside_where_sigmoids_round() -> None:
    network = nn.Linear(X_DIM, 4)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([60.0, -200.0, 0.0, 0.0]))
    q_z = posteriors.Squashed(posteriors.Normal(network), 100.0, 101.0)(torch.zeros(5, X_DIM))
    z = q_z.rsample()
    assert ((z > 100) & (z < 101)).all()
    assert torch.isfinite(priors.Uniform(2, 100.0, 101.0)().log_prob(z)).all()
    assert torch.isfinite(q_z.log_prob(z)).all()


# Digits.


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("scale", [1.0, 1e-2, posteriors.SCALE_FLOOR])
def test_low_rank_normals_keep_their_digits(scale: float, rank: int) -> None:
    """Of the same float32 numbers, against torch's own in float64."""
    z_dim = 6
    loc, factor = torch.randn(4, z_dim), torch.randn(4, z_dim, rank)
    diagonal = torch.full((4, z_dim), scale**2)
    q = LowRankNormal(loc, factor, diagonal)
    exact = dist.LowRankMultivariateNormal(loc.double(), factor.double(), diagonal.double())
    z = q.rsample((50,))
    assert z.dtype == q.mean.dtype == q.variance.dtype == q.stddev.dtype == torch.float32
    torch.testing.assert_close(q.log_prob(z), exact.log_prob(z.double()).float())
    torch.testing.assert_close(q.entropy(), exact.entropy().float())
    torch.testing.assert_close(q.variance, exact.variance.float())
    expanded = q.expand((3, 4))
    torch.testing.assert_close(expanded.log_prob(z[:3]), q.log_prob(z[:3]))
    assert expanded.sample().dtype == torch.float32
    wide = torch.eye(z_dim)[:, :2] + 0.3
    for p in (
        dist.Normal(torch.zeros(z_dim), 2.0).to_event(1),
        dist.MultivariateNormal(torch.ones(z_dim), 2 * torch.eye(z_dim)),
        dist.LowRankMultivariateNormal(torch.ones(z_dim), wide, torch.ones(z_dim)),
    ):
        p64 = getattr(p, "base_dist", p)
        covariance = (
            torch.diag(p64.variance.double())
            if isinstance(p64, dist.Normal)
            else p64.covariance_matrix.double()
        )
        whole = torch.distributions.MultivariateNormal(p.mean.double(), covariance)
        dense = torch.distributions.MultivariateNormal(exact.loc, exact.covariance_matrix)
        if scale < 1e-3 and rank < z_dim:
            continue  # the dense covariance has not enough digits itself
        kl = torch.distributions.kl_divergence(q, p)
        assert kl.dtype == torch.float32
        expected = torch.distributions.kl_divergence(dense, whole).float()
        torch.testing.assert_close(kl, expected, rtol=1e-4, atol=1e-4)


def test_sharp_low_rank_posteriors_give_the_exact_log_likelihood() -> None:
    """A decoder of one direction, whose posterior is sharp across it and wide along it."""
    z_dim, x_dim, s = 4, 3, 1e-3
    weight = torch.linalg.qr(torch.randn(z_dim, z_dim)).Q[:x_dim]  # rows are orthonormal
    along = torch.linalg.svd(weight).Vh[x_dim:]  # what x says nothing of
    variance = 1 / (1 + s**-2)
    decoder = networks.MLP(z_dim, (), x_dim)
    encoder = networks.MLP(x_dim, (), 3 * z_dim)
    with torch.no_grad():
        decoder.layers[0].weight.copy_(weight)
        decoder.layers[0].bias.zero_()
        encoder.layers[0].weight.zero_()
        encoder.layers[0].weight[:z_dim] = variance / s**2 * weight.T
        raw = math.log(math.expm1(math.sqrt(variance) - posteriors.SCALE_FLOOR))
        factor = along[0] * math.sqrt(1 - variance)
        encoder.layers[0].bias.copy_(
            torch.cat((torch.zeros(z_dim), torch.full((z_dim,), raw), factor))
        )
    vae = VAE(
        priors.StandardNormal(z_dim),
        likelihoods.Gaussian(decoder, scale=s),
        posteriors.LowRankNormal(encoder, rank=1),
    )
    x = torch.randn(20, x_dim)
    exact = dist.Normal(0.0, math.sqrt(1 + s**2)).log_prob(x).sum(1)
    result = log_likelihood(vae, x, 50, seed=0)
    # float32 places z, at 1e-3 of the posterior's width, to one part in 10^4.
    torch.testing.assert_close(result.values.float(), exact, rtol=0, atol=5e-3)


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
    torch.testing.assert_close(log_prob, exact.float())
    assert p_x.expand((2, 784)).log_prob(x).shape == (2, 784)


def test_a_transform_onto_an_interval_serves_without_its_cache() -> None:
    q_z = posterior_for("Uniform", "Normal", 2)(torch.rand(3, X_DIM))
    z = q_z.rsample()
    (transform,) = q_z.transforms
    y = transform.with_cache(0).inv(z)
    torch.testing.assert_close(transform.with_cache(0)(y), z)
    assert transform.with_cache(1) is not None


# Bits.


def test_bits_of_what_is_known() -> None:
    """A uniform distribution over 256 levels is 8 bits, in both of its forms."""
    uniform = 4 * math.log(256)
    assert datasets.bits_per_dim(uniform, (2, 2), pixels="levels") == pytest.approx(8.0)
    assert datasets.bits_per_dim(0.0, (2, 2), pixels="dequantized") == pytest.approx(8.0)
    nats = torch.tensor([0.0, 1.0])
    bits = datasets.bits_per_dim(nats, (1,), 2, pixels="dequantized")
    torch.testing.assert_close(bits, torch.tensor([1.0, 1 + 1 / math.log(2)]))
    for pixels in ("grey", "binary"):
        with pytest.raises(ValueError, match="pixels: got"):
            datasets.bits_per_dim(1.0, (2,), pixels=pixels)
    with pytest.raises(ValueError, match="levels: got 0"):
        datasets.bits_per_dim(1.0, (2,), 0, pixels="levels")


def test_dequantized_bits_are_a_bound_on_those_of_the_levels() -> None:
    """-E log of a density over cells is above -log of the cell's mass, by Jensen."""
    density = dist.Beta(torch.tensor(2.0).double(), torch.tensor(5.0).double())
    edges = torch.arange(257).double() / 256
    # The mass of a cell by its midpoints.
    inner = (torch.arange(64).double() + 0.5) / 64 / 256
    log_density = density.log_prob(edges[:-1, None] + inner)
    mass = log_density.exp().mean(1) / 256
    levels = -(mass * mass.log()).sum()
    dequantized = -(mass * log_density.mean(1)).sum()
    exact = datasets.bits_per_dim(levels.item(), (1,), pixels="levels")
    bound = datasets.bits_per_dim(dequantized.item(), (1,), pixels="dequantized")
    assert exact < bound < exact + 1e-2


# What does not fit.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.Uniform(2, 1.0, 1.0), "low, high: got 1.0 and 1.0"),
        (lambda: priors.Uniform(2, math.nan, 1.0), "low, high: got nan"),
        (lambda: priors.Uniform(2, -math.inf, 1.0), "low, high: got -inf"),
        (lambda: priors.Uniform(2, -3e38, 3e38), "low, high: got -3e[+]38"),
        (lambda: priors.Uniform(2, 1.0, 1 + 1e-9), "tells apart"),
        (lambda: priors.StudentT(2, 1e4), "df: got 10000.0"),
        (
            lambda: priors.VampPrior(POSTERIORS["Normal"](2), torch.rand(4, 5)),
            "pseudo_inputs: the",
        ),
        (lambda: priors.VampPrior(POSTERIORS["Normal"](2), torch.rand(4, 2, 3)), "one posterior"),
        (lambda: priors.StudentT(2, 0.0), "df: got 0.0"),
        (lambda: priors.GaussianMixture(2, 0), "components: got 0"),
        (lambda: priors.Flow(2, 0), "transforms: got 0"),
        (lambda: priors.Flow(2, hidden=(8, 0)), r"hidden: got \(8, 0\)"),
        (lambda: priors.Flow(2, hidden="ab"), "hidden: got 'ab'"),
        (lambda: posteriors.Flow(networks.MLP(3, (), 5), 2, hidden=-1), "hidden: got -1"),
        (lambda: likelihoods.Gaussian(networks.MLP(2, (), 3), scale=1e-60), "scale: got 1e-60"),
        (lambda: likelihoods.Gaussian(networks.MLP(2, (), 3), scale=torch.ones(3)), "scale: got"),
        (lambda: networks.MLP(2.5, (), 3), "in_shape: got 2.5"),
        (lambda: networks.Scaled(networks.MLP(2, (), 3), True), "factor: got True"),
        (
            lambda: priors.VampPrior(POSTERIORS["Flow"](2), torch.rand(2, 3)),
            "posterior: got a flow",
        ),
        (
            lambda: priors.VampPrior(posterior_for("Uniform", "Flow", 2), torch.rand(2, 3)),
            "posterior: got a flow",
        ),
        (lambda: priors.VampPrior(POSTERIORS["Normal"](2), torch.rand(3)), "got shape"),
        (
            lambda: priors.VampPrior(POSTERIORS["Normal"](2), 2 * torch.ones(2, 3)),
            r"values from 2 to 2, expected the range of x, from low=0 to high=1",
        ),
        (lambda: posteriors.LowRankNormal(networks.MLP(3, (), 8), 0), "rank: got 0"),
        (lambda: posteriors.Mixture(networks.MLP(3, (), 8), 0), "components: got 0"),
        (lambda: posteriors.Flow(networks.MLP(3, (), 4), 2), "a context for the flow"),
        (lambda: posteriors.Squashed(POSTERIORS["Normal"](2), 0, math.inf), "finite interval"),
        (lambda: likelihood("Categorical", 3, levels=4), r"out_shape \(3, 2\), expected \(4, "),
        (lambda: likelihood("DiscretizedLogistic", 2, levels=1), "levels: got 1"),
        (lambda: likelihood("DiscretizedLogistic", 2, components=2), r"expected \(6, "),
        (lambda: likelihood("Beta", 3), r"expected \(2, "),
        (lambda: likelihood("NegativeBinomial", 1), r"expected \(2, "),
        (lambda: likelihood("StudentT", 2, df=-1.0), "df: got -1.0"),
    ],
)
def test_wrong_parts_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.Normal(None), "network: got a NoneType"),
        (lambda: posteriors.Squashed("x", 0.0, 1.0), "posterior: got a str"),
        (lambda: networks.Folded(None, 2, 3), "network: got a NoneType"),
        (lambda: priors.VampPrior(networks.MLP(3, (), 4), torch.rand(2, 3)), "gave a Tensor"),
    ],
)
def test_what_is_no_part_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_numbers_of_numpy_are_numbers() -> None:
    network = networks.MLP(np.int64(2), (np.int32(4),), (np.int64(3),))
    assert network.out_shape == (3,)
    assert likelihoods.Gaussian(network, scale=np.float32(0.5)).scale == 0.5
    two: Any = np.int64(2)
    bits = datasets.bits_per_dim(1.0, two, pixels="levels")
    assert bits == datasets.bits_per_dim(1.0, 2, pixels="levels")


def likelihood(name: str, numbers: int, **options: float) -> nn.Module:
    return getattr(likelihoods, name)(networks.MLP(2, (), (numbers, 2)), **options)


@pytest.mark.parametrize(
    ("make", "numbers", "message"),
    [
        (posteriors.Normal, 3, "gave 3 numbers, expected 2"),
        (lambda network: posteriors.LowRankNormal(network, 2), 6, "gave 6 numbers, expected 4"),
        (posteriors.MultivariateNormal, 4, "gave 4 numbers, expected z_dim"),
        (lambda network: posteriors.Mixture(network, 2), 8, r"gave 8 numbers, expected 2 \* "),
        (lambda network: posteriors.Mixture(network, 2), 7, r"gave 7 numbers, expected 2 \* "),
    ],
)
def test_numbers_that_do_not_add_up_are_named(
    make: Callable[[nn.Module], nn.Module], numbers: int, message: str
) -> None:
    network = networks.MLP(3, (), numbers)
    with pytest.raises(ValueError, match=message):
        make(network)
    with pytest.raises(ValueError, match=r"got out_shape \(5, 4\), expected one dimension"):
        make(networks.MLP(3, (), (5, 4)))
    # A network that does not say is asked at its first call.
    silent = make(nn.Sequential(network))
    with pytest.raises(ValueError, match=message):
        silent(torch.rand(2, 3))


def test_a_vae_says_what_is_trained() -> None:
    vae = vae_of("VampPrior", "Normal")
    vae.likelihood.requires_grad_(False)
    posterior = sum(p.numel() for p in vae.posterior.parameters())
    text = repr(vae)
    assert (
        f"prior: {posterior + 4 * X_DIM} trained ({posterior} shared with the posterior)" in text
    )
    fixed = sum(p.numel() for p in vae.likelihood.parameters())
    assert f"likelihood: 0 trained, {fixed} fixed" in text
    assert isinstance(vae, VAE)


def test_without_zuko_flows_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ModuleNotFoundError, match=r"pyro_vae\[flows\]"):
        flows.spline(2, 1, (8,))
