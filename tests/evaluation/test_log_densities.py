"""Log-densities of a model and guide by effect handlers: masks, plates, discrete latents."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae import log_likelihood
from pyro_vae.evaluation.estimators import AIS
from pyro_vae.evaluation.log_densities import LogDensities

from ..pairs import fine, guide, two_layers, two_layers_evidence, two_layers_guide
from ..tolerances import CLOSE
from ..vaes import bernoulli_vae


def pixels(mask: bool) -> Callable[[Tensor], None]:
    """x of independent pixels in a plate of its own, left of which is the data plate."""

    def model(x: Tensor) -> None:
        seen = ~x.isnan()
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1).double(), 1.0))
            with pyro.plate("pixels", 3, dim=-1):
                handler = poutine.mask(mask=seen) if mask else poutine.mask(mask=True)
                with handler:
                    loc = z * torch.tensor([1.0, -2.0, 0.5]).double()
                    pyro.sample("x", dist.Normal(loc, 1.0), obs=x.nan_to_num(-7.0))

    return model


def pixels_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(0.1 * x.nan_to_num().sum(1, keepdim=True), 0.9))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["importance", "prior", AIS(2, 1)])
def test_two_layers_do_not_depend_on_memory(estimator: Any) -> None:
    x = two_layers_evidence().sample((66,))
    wide, narrow = (
        log_likelihood(
            x=x, num_samples=5, model=two_layers, guide=two_layers_guide,
            estimator=estimator, seed=0, max_bytes=max_bytes,
        )
        for max_bytes in (2**28, 2**16)
    )  # fmt: skip
    torch.testing.assert_close(narrow.values, wide.values, rtol=1e-9, atol=0)


def test_masked_pixels_drop_out() -> None:
    """log p of what is seen alone, whatever stands where nothing was."""
    weight = torch.tensor([1.0, -2.0, 0.5]).double()
    covariance = torch.outer(weight, weight) + torch.eye(3).double()
    x = MultivariateNormal(torch.zeros(3).double(), covariance).sample((66,))
    x[::2, 1] = math.nan
    x[::3, 0] = math.nan
    exact = []
    for row in x:
        seen = ~row.isnan()
        part = covariance[seen][:, seen]
        exact.append(MultivariateNormal(torch.zeros(len(part)).double(), part).log_prob(row[seen]))
    result = log_likelihood(
        x=x, num_samples=3000, model=pixels(mask=True), guide=pixels_guide, seed=1
    )
    error = (1 / result.ess - 1 / 3000).sqrt()
    assert ((result.values - torch.stack(exact)).abs() < 5 * error + 1e-9).all()


@pytest.mark.slow
def test_a_plate_around_the_examples() -> None:
    """Two views of each example, each with a latent of its own, in a plate left of the data's."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            common = pyro.sample("common", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            with pyro.plate("views", 2, dim=-2):
                own = pyro.sample("own", dist.Normal(common, 0.5))
                pyro.sample("x", dist.Normal(own, 0.5), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            common = pyro.sample("common", dist.Normal(0.4 * x.sum(1), 0.6))
            with pyro.plate("views", 2, dim=-2):
                pyro.sample("own", dist.Normal(0.5 * (common + x.T), 0.5))

    covariance = torch.ones(2, 2).double() + 0.5 * torch.eye(2).double()
    evidence = MultivariateNormal(torch.zeros(2).double(), covariance)
    x = evidence.sample((70,))
    wide, narrow = (
        log_likelihood(x=x, num_samples=300, model=model, guide=guide, seed=0, max_bytes=max_bytes)
        for max_bytes in (2**28, 2**14)
    )
    error = (1 / wide.ess - 1 / 300).sqrt()
    assert ((wide.values - evidence.log_prob(x)).abs() < 5 * error).all()
    torch.testing.assert_close(narrow.values, wide.values, rtol=1e-9, atol=0)


def test_modules_of_a_pair_are_in_eval_mode() -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((9, 6), 0.4))
    vae.likelihood.network.layers.append(nn.Dropout(0.9))
    whole = log_likelihood(vae, x, 10, seed=2)
    masked = poutine.mask(vae.model, mask=torch.tensor(True))
    pair = log_likelihood(x=x, num_samples=10, model=masked, guide=vae.guide, seed=2)
    assert torch.equal(whole.values, pair.values)
    assert vae.training


def test_discrete_latents_are_weighed_too() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * z[..., None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(x[:, 0].sigmoid()))

    x = torch.randn(10, 1)
    exact = torch.logaddexp(
        math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(x[:, 0]),
        math.log(0.3) + dist.Normal(2.0, 1.0).log_prob(x[:, 0]),
    )
    drawn = LogDensities(model, guide, (x,))  # as the ELBO draws them, and not summed out
    z, log_q = drawn.draw((x,), 5000)
    log_p_z, log_p_x = drawn.score((x,), z)
    log_w = (log_p_z + log_p_x - log_q).double()
    values = log_w.logsumexp(0) - math.log(5000)
    ess = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
    assert ((values - exact).abs() < 5 * (1 / ess - 1 / 5000).sqrt() + 1e-5).all()
    with pytest.raises(ValueError, match="model: all its latents are summed out"):
        log_likelihood(x=x, num_samples=2, model=model, guide=guide, estimator="ais")


def test_a_latent_of_too_many_values_is_drawn() -> None:
    """A count cannot be summed out, and Hamiltonian moves do not reach it."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Poisson(torch.tensor(2.0)))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Poisson(torch.full((len(x),), 2.5)))

    x, n = torch.randn(10, 1) + 2, torch.arange(60.0)
    exact = (dist.Poisson(2.0).log_prob(n) + dist.Normal(n, 1.0).log_prob(x)).logsumexp(1)
    result = log_likelihood(x=x, num_samples=5000, model=model, guide=guide, seed=0)
    error = (1 / result.ess - 1 / 5000).sqrt()
    assert ((result.values - exact).abs() < 5 * error + 1e-5).all()
    with pytest.raises(ValueError, match=r'site "z": a latent on .* is discrete'):
        log_likelihood(x=x, num_samples=2, model=model, guide=guide, estimator="ais")


@pytest.mark.usefixtures("float64")
def test_factors_under_a_mask() -> None:
    """A factor adds to log p(x) of the examples that are not masked."""
    x = torch.randn(10, 1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)
            with poutine.mask(mask=x[:, 0] > 0):
                pyro.factor("more", torch.full(z.shape, 2.0))

    plain = log_likelihood(x=x, num_samples=50, model=fine, guide=guide, seed=0)
    result = log_likelihood(x=x, num_samples=50, model=model, guide=guide, seed=0)
    more = 2.0 * (x[:, 0] > 0)
    torch.testing.assert_close(result.values, plain.values + more, rtol=CLOSE, atol=CLOSE)


def test_guides_that_only_score_what_they_draw() -> None:
    """A planar flow has no inverse, tanh loses digits far out: drawn ones have their density."""
    x = torch.randn(3, 1)
    planar = dist.transforms.planar(2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x)

    def flow(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1).expand([len(x)])
            pyro.sample("z", dist.TransformedDistribution(base, [planar]))

    result = log_likelihood(x=x, num_samples=2000, model=model, guide=flow, seed=0)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).mean().item()
    assert abs(result.jackknife.mean().item() - exact) < 5 * result.mc_error + 0.01

    def box(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(-1.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def edge(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            tanh = dist.transforms.TanhTransform(cache_size=1)
            base = dist.Normal(9.0, 0.01).expand([len(x)])
            pyro.sample("z", dist.TransformedDistribution(base, [tanh]))

    assert (
        log_likelihood(x=x, num_samples=5, model=box, guide=edge, seed=0).values.isfinite().all()
    )


def test_a_point_mass_after_a_network_in_both() -> None:
    """Computed for one example or two it may differ in its last digit, which is no dependence."""
    layer, x = nn.Linear(7, 5), torch.randn(3, 1)

    def both(x: Tensor, observed: bool) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([7]).to_event(1))
            w = pyro.sample("w", dist.Delta(layer(z)).to_event(1))
            if observed:
                pyro.sample("x", dist.Normal(w[..., :1], 1.0).to_event(1), obs=x)

    result = log_likelihood(
        x=x, num_samples=9, model=lambda x: both(x, True), guide=lambda x: both(x, False), seed=0
    )
    assert result.values.isfinite().all()
