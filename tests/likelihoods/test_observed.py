"""Likelihoods of what is observed: each of the package, with and without holes."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import VAE, likelihoods, networks, posteriors, priors
from pyro_vae.contracts import call
from pyro_vae.distributions import elementwise

from ..holes import NAN, holed
from ..swaps import LIKELIHOODS, data, likelihood_of, mlp

PLAIN = [name for name in LIKELIHOODS if not name.startswith("Observed")]


def pair_of(name: str) -> tuple[nn.Module, likelihoods.Observed]:
    likelihood = likelihood_of(name, 2)
    return likelihood, likelihoods.Observed(likelihood)


@pytest.mark.parametrize("name", PLAIN)
def test_complete_data_are_scored_as_without_it_bit_for_bit(name: str) -> None:
    likelihood, observed = pair_of(name)
    z, x = torch.randn(5, 6, 2, requires_grad=True), data(name)
    own, same = likelihood(z).log_prob(x), observed(z).log_prob(x)
    assert torch.equal(own, same)
    inputs = [z, *likelihood.parameters()]
    for a, b in zip(*(torch.autograd.grad(v.sum(), inputs) for v in (own, same)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", PLAIN)
def test_holes_are_left_out_and_have_no_gradient(name: str) -> None:
    likelihood, observed = pair_of(name)
    likelihood.double()
    z, complete = torch.randn(5, 6, 2).double().requires_grad_(), data(name).double()
    x = holed(complete)
    score = elementwise(likelihood(z))
    assert score is not None
    expected = score(complete).masked_fill(x.isnan(), 0.0).sum(-1)
    p_x = observed(z)
    assert p_x.log_prob(x).shape == (5, 6)
    assert torch.allclose(p_x.log_prob(x), expected, rtol=1e-12)
    assert (p_x.log_prob(x)[:, 0] == 0).all()  # all of the row is missing
    assert p_x.support.check(x).all()
    inputs = [z, *likelihood.parameters()]
    own, other = (torch.autograd.grad(v.sum(), inputs) for v in (p_x.log_prob(x), expected))
    for a, b in zip(own, other, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert not own[0][:, 0].any()
    # What stands in a hole does not matter; a draw has none.
    assert p_x.sample().isfinite().all()
    assert p_x.support.check(p_x.sample()).all()


@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    _, observed = pair_of(name)
    observed.double()
    x = holed(data(name).double())
    z = torch.randn(6, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: observed(z).log_prob(x), z)


def test_many_columns_of_several_kinds_are_scored_as_without_it() -> None:
    kinds = [likelihoods.Gaussian, likelihoods.Poisson, likelihoods.Bernoulli]
    columns = {f"column {n}": kinds[n % 3] for n in range(30)}
    network = networks.MLP(2, (8,), likelihoods.Columns.numbers(columns))
    likelihood = likelihoods.Columns(network, columns)
    z = torch.randn(50, 2)
    p_x, observed = likelihood(z), likelihoods.Observed(likelihood)(z)
    x = p_x.sample()
    assert torch.equal(p_x.log_prob(x), observed.log_prob(x))
    holed_x = holed(x)
    expected = p_x.elementwise_log_prob(x).masked_fill(holed_x.isnan(), 0.0).sum(-1)
    assert torch.allclose(observed.log_prob(holed_x), expected, rtol=1e-5, atol=1e-5)
    assert observed.support.check(holed_x).all()
    with pytest.raises(ValueError, match="column 1"):
        observed.log_prob(torch.full((50, 30), 0.5))


def test_a_relaxed_bernoulli_scores_the_grey_pixels_that_are_observed() -> None:
    likelihood = likelihoods.Bernoulli(mlp(2, 3), relaxed=True)
    z, grey = torch.randn(4, 2), torch.rand(4, 3)
    x = holed(grey)
    p_x = likelihoods.Observed(likelihood)(z)
    expected = likelihood(z).base_dist.log_prob(grey).masked_fill(x.isnan(), 0.0).sum(-1)
    assert torch.allclose(p_x.log_prob(x), expected, atol=1e-6)
    with pytest.raises(ValueError, match="between 0 and 1"):
        p_x.log_prob(x + 2)


def test_values_off_the_support_are_refused_beside_holes() -> None:
    observed = likelihoods.Observed(likelihoods.Bernoulli(mlp(2, 3)))
    with pytest.raises(ValueError, match="within the support"):
        observed(torch.zeros(2)).log_prob(torch.tensor([0.5, NAN, 1.0]))


def test_a_context_reaches_the_likelihood() -> None:
    joined = networks.Conditioned(networks.MLP(2 + 3, (), 3), (), classes=3)
    likelihood = likelihoods.Observed(likelihoods.Gaussian(joined, scale=1.0))
    z, label, x = torch.randn(6, 2), torch.arange(6) % 3, holed(torch.randn(6, 3))
    own = likelihood.likelihood(z, label).base_dist.log_prob(x.nan_to_num())
    expected = own.masked_fill(x.isnan(), 0.0).sum(-1)
    assert torch.equal(likelihood(z, label).log_prob(x), expected)
    encoder = networks.Observed(networks.Conditioned(networks.MLP(6 + 3, (), 4), (), classes=3), 3)
    vae = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(encoder))
    assert call(vae, "likelihood", z, context=(label,)).log_prob(x).equal(expected)
    assert vae.guide(x, label).shape == (6, 2)
    exposed = likelihoods.Observed(likelihoods.Poisson(mlp(2, 3), exposure=0))
    counts = holed(data("Poisson"))
    assert exposed(z, torch.full((6,), 2.0)).log_prob(counts).isfinite().all()


def test_likelihoods_whose_elements_depend_on_each_other_are_named() -> None:
    class Full(nn.Module):
        def forward(self, z: torch.Tensor) -> dist.Distribution:
            return dist.MultivariateNormal(z.new_zeros(*z.shape[:-1], 3), torch.eye(3))

    class Flow(nn.Module):
        def forward(self, z: torch.Tensor) -> dist.Distribution:
            normal = dist.Normal(z.new_zeros(*z.shape[:-1], 3), 1.0).to_event(1)
            spline = dist.transforms.AffineCoupling(1, nn.Linear(1, 4))
            return dist.TransformedDistribution(normal, [spline])

    encoder = networks.Observed(mlp((2, 3), 4))
    for likelihood, name in ((Full(), "MultivariateNormal"), (Flow(), "TransformedDistribution")):
        vae = VAE(
            priors.StandardNormal(2), likelihoods.Observed(likelihood), posteriors.Normal(encoder)
        )
        with pytest.raises(ValueError, match=f"likelihood: base: got .*{name}.* not independent"):
            vae.model(torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"likelihood: got a function, expected a torch.nn.Module"):
        likelihoods.Observed(lambda z: None)
