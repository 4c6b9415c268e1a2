"""Posteriors: formulas, mass one, pathwise gradients."""

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from pyro_vae import posteriors

from .quadrature import nodes
from .swaps import POSTERIORS, X_DIM, posterior_for
from .vaes import Given


def softplus(x: Tensor) -> Tensor:
    return nn.functional.softplus(x)


def test_posteriors_are_their_formulas() -> None:
    z = torch.randn(5, 2).double()

    def scale(raw: Tensor) -> Tensor:
        return softplus(raw) + 1e-4

    def check(module: nn.Module, numbers: Tensor, expected: Distribution) -> None:
        torch.testing.assert_close(module.double()(numbers).log_prob(z), expected.log_prob(z))

    n = torch.randn(5, 15).double()
    check(
        posteriors.Normal(Given(4)),
        n[:, :4],
        Independent(dist.Normal(n[:, :2], scale(n[:, 2:4])), 1),
    )
    factor = n[:, 4:10].view(5, 2, 3) / 3**0.5
    covariance = factor @ factor.mT + torch.diag_embed(scale(n[:, 2:4]).square())
    normal = dist.MultivariateNormal(n[:, :2], covariance)
    check(posteriors.LowRankNormal(Given(10), rank=3), n[:, :10], normal)
    tril = torch.diag_embed(scale(n[:, 2:4]))
    tril[:, 1, 0] = n[:, 4]
    normal = dist.MultivariateNormal(n[:, :2], tril @ tril.mT)
    check(posteriors.MultivariateNormal(Given(5)), n[:, :5], normal)
    each = n.view(5, 3, 5)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=each[..., 0]),
        dist.Normal(each[..., 1:3], scale(each[..., 3:5])).to_event(1),
    )
    check(posteriors.Mixture(Given(15), components=3), n, mixture)
    # The flow starts as the identity, so as the normal that the first numbers give.
    check(
        posteriors.Flow(Given(7), 2),
        n[:, :7],
        Independent(dist.Normal(n[:, :2], scale(n[:, 2:4])), 1),
    )


def test_multivariate_normals_fill_their_rows() -> None:
    n = torch.arange(9.0).double()
    tril = posteriors.MultivariateNormal(Given(9))(n).scale_tril
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


def test_squashed_takes_posteriors_over_all_reals() -> None:
    box = posterior_for("Uniform", "Normal", 2)
    with pytest.raises(ValueError, match=r"its support is OpenInterval\(-2, 3\), expected"):
        posteriors.Squashed(box, 0.0, 1.0)(torch.rand(2, X_DIM))


def test_samplers_have_pathwise_gradients() -> None:
    numbers = torch.randn(3, 4).double().requires_grad_()
    posterior = posteriors.Normal(Given(4))

    def draw(numbers: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return posterior(numbers).rsample()

    assert torch.autograd.gradcheck(draw, (numbers,))
