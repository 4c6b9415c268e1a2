"""Mixtures: densities, draws, and gradients through the draws."""

import gc
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_vae import priors
from pyro_vae.distributions import Mixture, NormalMixture, same_support

from ..swaps import POSTERIORS, PRIORS, X_DIM, posterior_for
from ..tolerances import CLOSE, assert_rounded, rounding, within


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
    q = NormalMixture(torch.zeros(2), torch.randn(2, 3).double(), torch.ones(2, 3))
    z = torch.zeros(3).double()
    expanded = q.expand((4,)).log_prob(z)
    torch.testing.assert_close(expanded, q.log_prob(z).expand(4), rtol=CLOSE, atol=0)
    assert q.expand((4,)).expand((5, 4)).log_prob(torch.zeros(4, 3)).shape == (5, 4)


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
    gradients: list[Tensor] = []
    logits, loc = torch.randn(3), torch.randn(3, 4)
    scale = torch.ones(3, 4)
    scale[1:, 1:] = 1e-4
    z = NormalMixture(logits, loc, scale).sample((200,))
    for dtype in (torch.float32, torch.float64):
        parameters = [t.to(dtype).requires_grad_() for t in (logits, loc, scale)]
        u, du_dz = NormalMixture(*parameters)._uniform(z.to(dtype))
        implied = torch.linalg.solve_triangular(du_dz, u.unsqueeze(-1), upper=False)
        each = torch.eye(200, dtype=dtype)  # the gradient of each draw
        gradients += torch.autograd.grad(
            implied[:, 0, 0], parameters[0], each, is_grads_batched=True
        )
    size = gradients[1].abs().sum(0)
    assert_rounded(gradients[0].sum(0), gradients[1].sum(0), terms=220, magnitude=size)


def test_a_mixtures_draws_follow_its_density() -> None:
    q = NormalMixture(torch.randn(2, 3), torch.randn(2, 3, 2), torch.rand(2, 3, 2) + 0.1)
    draws = q.sample((50_000,)).double()
    within(draws, q.mean)
    within((draws - q.mean).square(), q.variance)


def test_mixtures_score_by_matrix_products_as_exactly_as_without() -> None:
    """Narrow components far from zero, where the three terms nearly cancel."""
    loc, scale = 5 * torch.randn(20, 8), torch.rand(20, 8) * 1e-2 + 1e-4
    q = NormalMixture(torch.randn(20), loc, scale)
    z = (loc + scale * torch.randn(30, 20, 8)).flatten(0, 1)
    exact = dist.MixtureSameFamily(
        dist.Categorical(logits=q.mixture_distribution.logits.double()),
        dist.Normal(loc.double(), scale.double()).to_event(1),
    ).log_prob(z.double())
    # The three terms of the component that z was drawn from, in float64, and the sum in float32.
    center = loc.double().mean(0)
    size = ((z - center).abs().view(30, 20, 8) + (loc - center).abs()) / scale
    size = size.square().sum(-1).flatten()
    error = rounding(32, torch.float64) * size + rounding(2) * exact.abs()
    assert ((q.log_prob(z).double() - exact).abs() <= error).all()
    assert error.max() < 1e-2
    expanded = q.expand((600,))
    assert torch.equal(expanded.log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("prior", ["GaussianMixture", "VampPrior"])
def test_mixtures_serve_nuts(prior: str) -> None:
    p = PRIORS[prior](2, POSTERIORS["Normal"](2))
    assert same_support(p().support, torch.distributions.constraints.real_vector)
    chain = MCMC(
        NUTS(lambda: pyro.sample("z", p())), num_samples=30, warmup_steps=30, disable_progbar=True
    )
    chain.run()
    assert torch.isfinite(chain.get_samples()["z"]).all()


def test_mixtures_of_squashed_normals_have_the_box_as_support() -> None:
    q = posterior_for("Uniform", "Normal", 2)
    p_z = priors.VampPrior(q, torch.rand(4, X_DIM))()
    assert isinstance(p_z, Mixture)
    assert same_support(p_z.support, priors.Uniform(2, -2.0, 3.0)().support)


def test_a_component_too_narrow_for_its_distance_is_named() -> None:
    loc, scale = torch.tensor([[-1.0], [1.0]]), torch.full((2, 1), 1e-9)
    with pytest.raises(ValueError, match=r"scale: got 1e-09 for .*, expected a greater scale"):
        NormalMixture(torch.zeros(2), loc, scale, validate_args=True).log_prob(loc)
