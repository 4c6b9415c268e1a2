"""Columns of mixed kinds: each is scored as its likelihood alone, whatever stands beside it."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import (
    VAE,
    fit,
    likelihoods,
    load,
    log_likelihood,
    networks,
    objectives,
    optim,
    posteriors,
    priors,
    save,
)
from pyro_vae.distributions import check_on_support
from pyro_vae.likelihoods import Column, Columns

from ..conftest import needs_compiler
from ..tolerances import CLOSE, assert_rounded
from ..vaes import Given

EVERY: dict[str, Column] = {
    "gaussian": likelihoods.Gaussian,
    "class of 3": partial(likelihoods.Categorical, levels=3),
    "poisson": likelihoods.Poisson,
    "bernoulli": likelihoods.Bernoulli,
    "another gaussian": likelihoods.Gaussian,
    "fixed": partial(likelihoods.Gaussian, scale=0.5),
    "shared": partial(likelihoods.Gaussian, scale="shared"),
    "laplace": likelihoods.Laplace,
    "another class of 3": partial(likelihoods.Categorical, levels=3),
    "class of 4": partial(likelihoods.Categorical, levels=4),
    "student": partial(likelihoods.StudentT, df=3.0),
    "negative binomial": likelihoods.NegativeBinomial,
    "beta": likelihoods.Beta,
    "continuous": likelihoods.ContinuousBernoulli,
    "logistic": partial(likelihoods.DiscretizedLogistic, levels=5, components=2),
    "another beta": likelihoods.Beta,
    "shared, too": partial(likelihoods.Gaussian, scale="shared"),
}
TAKES = [2, 3, 1, 1, 2, 1, 1, 2, 3, 4, 2, 2, 2, 1, 6, 2, 1]


def numbers_of(rows: int = 6) -> Tensor:
    return torch.randn(rows, sum(TAKES), dtype=torch.float64)


def alone(column: Column, numbers: Tensor) -> dist.Distribution:
    """The distribution of a single column by its likelihood, of its own numbers."""
    takes = numbers.shape[-1]
    network = Given(1) if takes == 1 else Given(takes, 1)
    return column(network).double()(numbers if takes == 1 else numbers.unsqueeze(-1))


class Fixed(nn.Module):
    """A network that gives the same trained numbers for every z."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.out_shape = torch.Size((count,))
        self.numbers = nn.Parameter(torch.randn(count))

    def forward(self, z: Tensor) -> Tensor:
        return self.numbers.expand(*z.shape[:-1], -1)


def mixed(network: nn.Module, columns: dict[str, Column], z_dim: int = 2) -> VAE:
    encoder = networks.MLP(len(columns), (8,), 2 * z_dim)
    return VAE(priors.StandardNormal(z_dim), Columns(network, columns), posteriors.Normal(encoder))


def test_each_column_is_scored_as_its_likelihood_alone() -> None:
    """Log-densities and gradients; columns that share a call among them."""
    numbers = numbers_of()
    likelihood = Columns(Given(sum(TAKES)), EVERY).double()
    p_x = likelihood(numbers.requires_grad_())
    assert Columns.numbers(EVERY) == sum(TAKES)
    x = p_x.sample()
    together = p_x.elementwise_log_prob(x)
    assert together.shape == x.shape == (6, len(EVERY))
    (gradient,) = torch.autograd.grad(together.square().sum(), numbers)
    shares = numbers.detach().split(TAKES, -1)
    for place, (name, column) in enumerate(EVERY.items()):
        own = shares[place].clone().requires_grad_()
        expected = alone(column, own).log_prob(x[:, place : place + 1])
        torch.testing.assert_close(together[:, place], expected, rtol=1e-14, atol=1e-14, msg=name)
        (slope,) = torch.autograd.grad(expected.square().sum(), own)
        found = gradient.split(TAKES, -1)[place]
        torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-12, msg=name)
    assert_rounded(p_x.log_prob(x), together.sum(-1), len(EVERY), together.abs().sum(-1))
    # Gaussians, classes of three and Betas share a call, and a shared scale has its own.
    assert len(p_x.parts) == len(EVERY) - 3


def test_numbers_are_those_of_the_first_column_first() -> None:
    columns = {"a": partial(likelihoods.Gaussian, scale=1.0), "b": likelihoods.Gaussian}
    columns["c"] = partial(likelihoods.Gaussian, scale=1.0)
    p_x = Columns(Given(4), columns)(torch.tensor([10.0, 20.0, 0.0, 30.0]))
    assert p_x.mean.tolist() == [10.0, 20.0, 30.0]


def test_gradients_are_finite_differences() -> None:
    numbers = numbers_of(3)
    likelihood = Columns(Given(sum(TAKES)), EVERY).double()
    x = likelihood(numbers).sample()
    for score in ("log_prob", "elementwise_log_prob"):
        function = lambda n, score=score: getattr(likelihood(n), score)(x)  # noqa: E731
        assert torch.autograd.gradcheck(function, (numbers.requires_grad_(),))


def test_the_evidence_of_independent_columns_is_a_product() -> None:
    """The network ignores z and the posterior is the prior, so each weight is p(x)."""
    vae = mixed(Fixed(sum(TAKES)), EVERY).double()
    vae.posterior = nn.Module()
    vae.posterior.forward = lambda x: dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1)
    with torch.no_grad():
        x = vae.generate(5, sample=True)
        numbers = vae.likelihood.network.numbers.split(TAKES)
        densities = [
            alone(column, own[None]).log_prob(x[:, place : place + 1])
            for place, (column, own) in enumerate(zip(EVERY.values(), numbers, strict=True))
        ]
    result = log_likelihood(vae, x, 30, seed=0)
    torch.testing.assert_close(result.values, sum(densities), rtol=1e-12, atol=0)
    assert result.mc_error < 1e-12


def test_scales_that_are_shared_belong_to_their_column_alone(tmp_path: Path) -> None:
    columns = dict.fromkeys(("a", "b"), EVERY["shared"]) | {"c": likelihoods.Bernoulli}

    def build() -> VAE:
        return mixed(networks.MLP(2, (8,), Columns.numbers(columns)), columns)

    vae = build()
    # The scale of a is 0.1, and that of b is 3.
    x = torch.cat((0.1 * torch.randn(512, 1), 3 * torch.randn(512, 1), torch.ones(512, 1)), 1)
    fit(vae, x, epochs=30, optim=optim.Adam(lr=3e-2), compile=False)
    narrow, wide = vae.likelihood.columns[0], vae.likelihood.columns[1]
    assert narrow.raw_scale is not wide.raw_scale
    a, b = (nn.functional.softplus(each.raw_scale).item() for each in (narrow, wide))
    assert a < 0.5 < 1.5 < b
    save(vae, tmp_path / "run")
    other = load(tmp_path / "run", into=build())
    assert torch.equal(other.likelihood.columns[1].raw_scale, wide.raw_scale)
    assert vae.double().likelihood(torch.zeros(2).double()).sample().dtype == torch.float64


class LogNormal(nn.Module):
    """A user's own, which is no ``Independent``."""

    numbers = 2

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> dist.Distribution:
        loc, raw = self.network(z).unbind(-2)
        normal = dist.Normal(loc, nn.functional.softplus(raw)).to_event(1)
        return dist.TransformedDistribution(normal, [dist.transforms.ExpTransform()])


class Exponential(nn.Module):
    """A user's own that does not say how many numbers it takes; it normalizes over elements."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> dist.Distribution:
        rates = self.network(z).exp()
        return dist.Exponential(rates / rates.sum(-1, keepdim=True)).to_event(1)


def test_a_users_own_likelihoods_are_columns() -> None:
    columns: dict[str, Column] = {
        "a": LogNormal,
        "b": LogNormal,
        "c": Exponential,
        "d": Exponential,
        "e": likelihoods.Gaussian,
    }
    assert Columns.numbers(columns) == 8
    numbers = torch.randn(5, 8).double()
    p_x = Columns(Given(8), columns)(numbers)
    x = p_x.sample()
    assert p_x.support.check(x).all()
    together = p_x.elementwise_log_prob(x)
    for place, own in enumerate(numbers[:, :4].split(2, -1)):
        normal = dist.LogNormal(own[:, 0], nn.functional.softplus(own[:, 1]))
        torch.testing.assert_close(together[:, place], normal.log_prob(x[:, place]))
    for place in (2, 3):  # Beside each other they would not be normalized to 1.
        expected = dist.Exponential(1.0).log_prob(x[:, place])
        torch.testing.assert_close(together[:, place], expected, check_dtype=False)


def test_the_context_reaches_the_network_and_the_columns() -> None:
    columns: dict[str, Column] = {
        "visits": partial(likelihoods.Poisson, exposure=1),
        "age": partial(likelihoods.Gaussian, scale=1.0),
    }
    network = networks.Conditioned(networks.MLP(2 + 3, (), 2), (), classes=3)
    likelihood = Columns(network, columns)
    assert likelihood.takes_context
    assert not Columns(networks.MLP(2, (), 2), {**columns, "visits": likelihoods.Poisson}
                       ).takes_context  # fmt: skip
    z, label, time = torch.randn(4, 2), torch.tensor([0, 1, 2, 0]), torch.tensor([1.0, 2, 3, 4])
    log_rate, mean = network(z, label).unbind(-1)
    p_x = likelihood(z, label, time)
    torch.testing.assert_close(p_x.mean[:, 0], time * log_rate.exp() + 1e-4)
    torch.testing.assert_close(p_x.mean[:, 1], mean)
    vae = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(networks.MLP(2, (), 4)))
    x = p_x.sample()
    assert math.isfinite(log_likelihood(vae, (x, label, time), 30, seed=0).mean)
    with pytest.raises(ValueError, match="exposure of -1"):
        log_likelihood(vae, (x, label, -torch.ones(4)), 30)


def test_what_is_observed_of_a_row_is_the_sum_of_its_columns() -> None:
    """By the protocol of ``likelihoods.Observed``; the calls have another order of columns."""
    likelihood = Columns(Given(sum(TAKES)), EVERY).double()
    observed = likelihoods.Observed(likelihood)
    numbers = numbers_of().requires_grad_()
    complete = likelihood(numbers).sample()
    assert torch.equal(
        observed(numbers).log_prob(complete), likelihood(numbers).log_prob(complete)
    )
    holes = torch.rand(complete.shape) < 0.4
    x = complete.masked_fill(holes, math.nan)
    p_x = observed(numbers)
    expected = likelihood(numbers).elementwise_log_prob(complete).masked_fill(holes, 0.0).sum(-1)
    assert torch.equal(p_x.log_prob(x), expected)
    (gradient,) = torch.autograd.grad(p_x.log_prob(x).sum(), numbers)
    for place, own in enumerate(gradient.split(TAKES, -1)):
        assert own.isfinite().all()
        assert not own[holes[:, place]].any()
    check_on_support("x", x, p_x.support)
    x[3, 5], x[2, 3] = math.nan, 0.5
    with pytest.raises(ValueError, match=r"x, column 'bernoulli': got 0\.5 at 1 of 6 places"):
        check_on_support("x", x, p_x.support)


@pytest.mark.parametrize("batch", [(), (4,), (3, 4), (2, 3, 4)])
def test_leading_dimensions_are_free(batch: tuple[int, ...]) -> None:
    likelihood = Columns(networks.MLP(2, (8,), sum(TAKES)), EVERY)
    p_x = likelihood(torch.randn(*batch, 2))
    x = p_x.sample((7,))
    assert (p_x.batch_shape, p_x.event_shape) == (batch, (len(EVERY),))
    assert x.shape == (7, *batch, len(EVERY))
    assert p_x.log_prob(x).shape == (7, *batch)
    assert p_x.elementwise_log_prob(x[0]).shape == (*batch, len(EVERY))
    wide = p_x.expand((5, *batch))
    torch.testing.assert_close(wide.log_prob(x[0])[3], p_x.log_prob(x[0]))


def test_training_lowers_the_cost() -> None:
    hidden = torch.randn(400, 1)
    x = torch.cat((hidden + 0.1 * torch.randn(400, 1), (hidden > 0).float(),
                   torch.poisson(hidden.exp()), (hidden > 0.5).float() * 2), 1)  # fmt: skip
    columns = {"real": likelihoods.Gaussian, "sign": likelihoods.Bernoulli,
               "count": likelihoods.NegativeBinomial, "three": EVERY["class of 3"]}  # fmt: skip
    vae = mixed(networks.MLP(2, (16,), Columns.numbers(columns)), columns)
    history = fit(vae, x, epochs=15, optim=optim.Adam(lr=1e-2), compile=False)
    assert history.cost[-1] < history.cost[0] - 1.0
    values = vae.reconstruct(x)
    assert (values[:, 1] == x[:, 1]).float().mean() > 0.9
    assert values.isfinite().all()


@needs_compiler
@pytest.mark.usefixtures("code")
def test_compiled_steps_are_the_uncompiled_ones() -> None:
    columns = {name: EVERY[name] for name in ("shared", "class of 3", "poisson", "bernoulli",
               "gaussian", "another gaussian")}  # fmt: skip
    runs = []
    for objective in (Trace_ELBO(), objectives.compiled(Trace_ELBO())):
        torch.manual_seed(0)
        vae = mixed(networks.MLP(2, (8,), Columns.numbers(columns)), columns).double()
        svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objective)
        torch.manual_seed(1)
        x = vae.generate(6, sample=True)
        runs.append([svi.step(x) for _ in range(3)])
    assert runs[1] == pytest.approx(runs[0], rel=CLOSE)


# What does not fit.


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (2, 2), ()])
def test_a_network_of_another_size_is_told_what_each_column_takes(shape: tuple[int, ...]) -> None:
    columns = {"age": likelihoods.Gaussian, "sex": partial(likelihoods.Categorical, levels=2)}
    with pytest.raises(ValueError, match=r"network: .*expected \(4,\): .*'age' 2, 'sex' 2"):
        Columns(Given(*shape), columns)
    assert Columns(Given(4), columns)(torch.zeros(4)).event_shape == (2,)


UNKNOWN: dict[str, Any] = {"width": 1.0}


class Unnamed(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()

    def forward(self, numbers: Tensor) -> Any:
        return numbers


class Scalar(Unnamed):
    numbers = 2

    def forward(self, numbers: Tensor) -> Any:
        return dist.Normal(numbers.sum(-1), 1.0)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (3, "column 'a': got an int"),
        (
            likelihoods.Gaussian(Given(2, 1)),
            "column 'a': got a Gaussian, expected a",
        ),
        (partial(likelihoods.Gaussian, Given(2, 1)), "column 'a': got a partial with 1 argument"),
        (partial(dist.Normal, 0.0), "column 'a': got a partial with 1 argument"),
        (partial(dist.Normal, loc=0.0), "column 'a': got a partial of .*Normal"),
        (partial(likelihoods.Gaussian, scale=-1.0), "column 'a': scale: got -1"),
        (partial(likelihoods.Bernoulli, **UNKNOWN), "column 'a': .*width"),
        (partial(likelihoods.Categorical, levels=0), "column 'a': levels: got 0"),
        (type("Own", (Unnamed,), {"numbers": 1.5}), "column 'a': numbers: got 1.5"),
    ],
)
def test_what_is_no_likelihood_is_named_with_its_column(column: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"columns: {message}"):
        Columns(Given(2), {"a": column})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Unnamed, "got a Tensor from the likelihood of 'a'"),
        (Scalar, r"event_shape \(\) from .*'a'"),
    ],
)
def test_what_a_likelihood_returns_is_held_to_its_shape(column: Any, message: str) -> None:
    likelihood = Columns(Given(Columns.numbers({"a": column})), {"a": column})
    with pytest.raises(ValueError, match=message):
        likelihood(torch.zeros(5, 2)[:, : likelihood.network.out_shape[0]])
