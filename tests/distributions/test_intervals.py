"""Open intervals, and the transforms onto them."""

import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_vae import posteriors, priors

from ..swaps import POSTERIORS, X_DIM, posterior_for
from ..tolerances import assert_rounded


def test_open_intervals_are_reached_as_closed_ones_are() -> None:
    y = torch.randn(5)
    support = posterior_for("Uniform", "Normal", 2)(torch.rand(1, X_DIM)).support.base_constraint
    for registry in (torch.distributions.biject_to, torch.distributions.transform_to):
        closed = registry(constraints.interval(-2.0, 3.0))
        assert_rounded(registry(support)(y), closed(y), terms=10, magnitude=5)


def test_a_transform_onto_an_interval_serves_without_its_cache() -> None:
    q_z = posterior_for("Uniform", "Normal", 2)(torch.rand(3, X_DIM))
    z = q_z.rsample()
    (transform,) = q_z.transforms
    y = transform.with_cache(0).inv(z)
    assert_rounded(transform.with_cache(0)(y), z, terms=20, magnitude=5)  # the interval
    assert transform.with_cache(1) is not None


@pytest.mark.parametrize("name", ["Flow", "Squashed"])
def test_scores_follow_changes_in_place(name: str) -> None:
    module = POSTERIORS["Flow"](2) if name == "Flow" else posterior_for("Uniform", "Normal", 2)
    q_z = module.double()(torch.rand(3, X_DIM).double())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            z = q_z.sample()
            z.mul_(0.5)
            torch.testing.assert_close(q_z.log_prob(z), q_z.log_prob(z.clone()))


def test_squashed_posteriors_have_no_density_at_the_ends() -> None:
    q_z = posterior_for("Uniform", "Normal", 2)(torch.rand(1, X_DIM))
    for end in (-2.0, 3.0):
        with pytest.raises(ValueError, match="support"):
            q_z.log_prob(torch.tensor([[0.0, end]]))


def test_squashed_draws_stay_inside_where_sigmoids_round() -> None:
    network = nn.Linear(X_DIM, 4)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([60.0, -200.0, 0.0, 0.0]))
    q_z = posteriors.Squashed(posteriors.Normal(network), 100.0, 101.0)(torch.zeros(5, X_DIM))
    z = q_z.rsample()
    assert ((z > 100) & (z < 101)).all()
    assert torch.isfinite(priors.Uniform(2, 100.0, 101.0)().log_prob(z)).all()
    assert torch.isfinite(q_z.log_prob(z)).all()
