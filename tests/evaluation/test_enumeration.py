"""Discrete latents in evaluation: summed out, so that they add no noise."""

import importlib
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import Pair, elbo, log_likelihood
from pyro_vae.evaluation import calibration, certify, elbo_gap, posterior_predictive
from pyro_vae.evaluation.enumeration import LIMIT
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.evaluation.scorer import Scorer

from ..conftest import needs_compiler
from ..discrete import Classes, OneClass
from ..tolerances import CLOSE, within


def test_at_the_exact_posterior_the_weights_are_equal() -> None:
    """The class would add noise if it were drawn: log q(y, z|x) is not log q(z|x)."""
    case = Classes()
    x, pair = case.data(7), case.pair("exact_guide")
    result = log_likelihood(pair, x, num_samples=50, seed=0)
    evidence = case.evidence(x).detach()
    torch.testing.assert_close(result.values, evidence, rtol=CLOSE, atol=0)
    torch.testing.assert_close(result.elbo, evidence, rtol=CLOSE, atol=0)
    assert result.mc_error < 1e-7
    certificate = certify(pair, num_samples=3, estimator="importance", x=x, seed=0)
    assert certificate.gap == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("estimator", ["importance", "prior", "ais:20:5"])
@pytest.mark.parametrize("guide", ["exact_guide", "guide_of_z"])
def test_log_likelihood_is_the_evidence(guide: str, estimator: str) -> None:
    """With the class in the guide, and in the model alone."""
    case = Classes(shift=0.2, width=1.5)
    x = case.data(7)
    samples = 400 if estimator.startswith("ais") else 3000
    result = log_likelihood(case.pair(guide), x, samples, seed=0, estimator=estimator)
    evidence = case.evidence(x).mean().item()
    assert abs(result.mean - result.bias - evidence) < 3 * result.mc_error
    assert 0 < result.mc_error < 0.2


def test_its_elbo_lies_between_the_elbo_and_the_evidence() -> None:
    case = Classes(shift=0.4, width=1.5)
    x, pair = case.data(7), case.pair("exact_guide")
    marginal = log_likelihood(pair, x, 4000, seed=0).elbo.mean().item()
    joint = elbo(pair, x, 4000, seed=0)
    assert joint.mean - 3 * joint.mc_error < marginal < case.evidence(x).mean().item()
    gap = elbo_gap(pair, x, 4000, steps=1, seed=0)
    assert gap.elbo.mean().item() == pytest.approx(joint.mean, abs=5 * joint.mc_error)


def test_a_refined_guide_of_the_family_is_exact() -> None:
    """What is off by a shift and a factor is found: the approximation gap is then zero."""
    case = Classes(shift=0.2, width=1.3)
    x = case.data(3)
    gap = elbo_gap(case.pair("exact_guide"), x, 500, steps=150, seed=0)
    assert gap.amortization_mean > 0.1
    assert abs(gap.approximation_mean) < 0.05


@pytest.mark.parametrize("guide", ["guide", "no_guide"])
@pytest.mark.parametrize("kind", [dist.Categorical, dist.OneHotCategorical])
def test_without_other_latents_it_is_exact(guide: str, kind: Any) -> None:
    x = torch.randn(6).double()
    case = OneClass(1, kind=kind)  # one q(y) for all, so that examples come in any blocks
    with torch.no_grad():
        case.logits.copy_(torch.randn(1, 4).double())
    pair = Pair(case.model, lambda x: shared(case, x, guide == "guide"), case=case)
    evidence = case.log_joint(x).logsumexp(-1).detach()
    for samples in (1, 5):
        for estimator in ("importance", "prior"):
            result = log_likelihood(pair, x, samples, seed=0, estimator=estimator)
            torch.testing.assert_close(result.values, evidence, rtol=CLOSE, atol=CLOSE)
    with pytest.raises(ValueError, match='estimator="importance" is exact without'):
        log_likelihood(pair, x, 5, estimator="ais")
    assert certify(pair, estimator="importance", x=x, seed=0).gap == pytest.approx(0, abs=1e-9)


def shared(case: OneClass, x: Tensor, has_y: bool) -> None:
    with pyro.plate("data", len(x)):
        if has_y:
            pyro.sample("y", case.kind(logits=case.logits.expand(len(x), -1)))


def test_simulated_data_and_chains_are_calibrated() -> None:
    """Draws of z by chains, with the class summed out, and of y and z by an exact guide."""
    case = Classes()
    x, pair = case.data(4), case.pair("exact_guide")
    for method, names in (("guide", ("y", "z[0]", "z[1]")), ("mcmc:20:5", ("z[0]", "z[1]"))):
        result = calibration(pair, 200, 9, method=method, x=x, seed=0)
        assert result.names == (*names, "log p(x, z)")
        assert set(result.verdicts) == {"calibrated"}


def test_a_class_of_the_model_alone_is_drawn_given_x() -> None:
    """Replications from p(y|x, z), not from p(y)."""
    x = torch.tensor([-4.0, 4.0]).double().repeat(50)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            y = pyro.sample("y", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("x", dist.Normal(8 * y - 4 + 0.1 * z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    result = posterior_predictive(Pair(model, guide), x, lambda x: x, num_samples=30, seed=0)
    # In the wrong class, which has a chance of exp(-32), a replication would be 8 away.
    assert (result.replicated - x).abs().max() < 6
    within((result.replicated - x).mean(0)[:, None], 0.0)


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("guide", ["exact_guide", "guide_of_z"])
def test_a_compiled_scorer_sums_out_too(guide: str) -> None:
    case = Classes(shift=0.2, width=1.5)
    x, pair = case.data(4), case.pair(guide)
    module = importlib.import_module("pyro_vae.evaluation.scorer")
    with torch.no_grad():
        densities = LogDensities(pair.model, pair.guide, (x,), marginal=True)
        found = []
        for draws in (0, module.DRAWN_COMPILED_FROM):
            torch.manual_seed(5)
            scorer = Scorer(densities, draws)
            z, log_q = scorer.draw((x,), 6)
            found.append((log_q, *scorer.score((x,), z)))
        assert scorer.compiles
        assert not scorer._cache.reasons
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=CLOSE, atol=CLOSE)


def test_more_values_than_the_limit_are_drawn() -> None:
    """Eleven coins have 2048 values: ten of them are summed out."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            coins = [pyro.sample(f"y{i}", dist.Bernoulli(x.new_tensor(0.3))) for i in range(11)]
            pyro.sample("x", dist.Normal(sum(coins), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for i in range(11):
                pyro.sample(f"y{i}", dist.Bernoulli(x.new_tensor(0.3)))

    x = torch.randn(2).double() + 3
    with torch.no_grad():
        densities = LogDensities(model, guide, (x,), marginal=True)
    assert len(densities.countable) == 10
    assert 2 ** len(densities.countable) == LIMIT
    assert densities.latents == ("y10",)
    n = torch.arange(12.0).double()
    exact = dist.Binomial(11, x.new_tensor(0.3)).log_prob(n) + dist.Normal(n, 1.0).log_prob(
        x[:, None]
    )
    result = log_likelihood(x=x, num_samples=200, model=model, guide=guide, seed=0)
    error = (1 / result.ess - 1 / 200).sqrt()
    assert ((result.values - exact.logsumexp(1)).abs() < 5 * error + CLOSE).all()


def in_pixels(guided: bool) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """A class for each of two pixels of x, in a plate of their own."""

    def classes(x: Tensor) -> Tensor:
        return pyro.sample("y", dist.Bernoulli(x.new_full((len(x), 2), 0.3)))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 2, dim=-1):
            pyro.sample("x", dist.Normal(2 * classes(x), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        if guided:
            with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 2, dim=-1):
                classes(x)

    return model, guide


def test_a_class_in_a_further_plate_is_drawn_or_refused() -> None:
    x = torch.randn(5, 2).double()
    model, guide = in_pixels(True)
    each = [
        torch.tensor(p, dtype=torch.float64).log() + dist.Normal(2.0 * y, 1.0).log_prob(x)
        for y, p in enumerate((0.7, 0.3))
    ]
    exact = torch.logaddexp(*each).sum(1)
    result = log_likelihood(x=x, num_samples=3000, model=model, guide=guide, seed=0)
    error = (1 / result.ess - 1 / 3000).sqrt()
    assert (error > 0).all()
    assert ((result.values - exact).abs() < 5 * error).all()
    model, guide = in_pixels(False)
    with pytest.raises(ValueError, match=r'the site "y", .* is in the plate "pixels", expected'):
        log_likelihood(x=x, num_samples=30, model=model, guide=guide)


def test_a_mask_in_the_distribution_of_a_class_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(x.new_tensor(0.3)).mask(torch.tensor(True)))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    with pytest.raises(ValueError, match=r'the site "y", .* has a mask in its distribution'):
        log_likelihood(x=torch.randn(3), num_samples=3, model=model, guide=lambda x: None)


def test_a_masked_class_of_the_model_alone_adds_up() -> None:
    """Examples that are masked as a whole have log p(x) = 0, and the others their own."""
    case, seen = OneClass(4), torch.tensor([True, False, True, True])

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.mask(mask=seen):
            y = pyro.sample("y", dist.Categorical(logits=case.prior))
            pyro.sample("x", dist.Normal(case.loc[y], 1.0), obs=x)

    x = torch.randn(4).double()
    result = log_likelihood(x=(x, seen), num_samples=3, model=model, guide=lambda x, seen: None)
    expected = case.log_joint(x).logsumexp(-1).detach() * seen
    torch.testing.assert_close(result.values, expected, rtol=CLOSE, atol=CLOSE)


def test_a_program_that_takes_sizes_from_a_class() -> None:
    """Its values then have the sizes of the plates, which they else have not."""
    case = Classes()
    x = case.data(5)

    def guide(x: Tensor) -> None:
        means, covariance = case.posterior(x)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=case.log_joint(x)))
            wide = means.expand(*y.shape, *means.shape[1:])  # fails on (CLASSES, 1, 1)
            loc = torch.take_along_dim(wide, y[..., None, None], -2).squeeze(-2)
            pyro.sample("z", dist.MultivariateNormal(loc, covariance[y]))

    result = log_likelihood(Pair(case.model, guide, case=case), x, 20, seed=0)
    torch.testing.assert_close(result.values, case.evidence(x).detach(), rtol=CLOSE, atol=0)


def test_a_kl_in_closed_form_needs_the_class_in_the_guide() -> None:
    case = Classes()
    x = case.data(3)
    own = elbo(case.pair("trained_guide"), x, 2000, kl="analytic", seed=0)
    sampled = elbo(case.pair("trained_guide"), x, 2000, seed=0)
    assert own.kl_mean == pytest.approx(sampled.kl_mean, abs=5 * sampled.kl_mc_error)
    with pytest.raises(ValueError, match='analytic KL: got the site "y", which is summed out'):
        elbo(case.pair("guide_of_z"), x, 20, kl="analytic")
