"""Active units and predictive checks."""

import math

import pytest
import torch
from torch import Tensor

from pyro_vae import VAE, likelihoods
from pyro_vae.evaluation import active_units, posterior_predictive

from ..vaes import bernoulli_vae, linear_gaussian


def test_active_units_are_those_that_x_moves() -> None:
    case = linear_gaussian(exact=True, examples=3000)
    encoder = case.vae.posterior.network.layers[0]
    with torch.no_grad():
        encoder.weight[1].zero_()
    found = active_units(case.vae, case.x)
    assert found.active.tolist() == [True, False]
    assert found.count == 1
    assert found.statistic[1] == pytest.approx(0, abs=1e-20)
    # The variance of the posterior mean under p(x) is 1 - C for an exact posterior.
    expected = 1 - case.posterior_scale[0].item() ** 2
    assert found.statistic[0].item() == pytest.approx(expected, rel=5 * math.sqrt(2 / 3000))
    assert active_units(case.vae, case.x, threshold=1.0).count == 0
    with pytest.raises(ValueError, match="x: got one example, expected two or more"):
        active_units(case.vae, case.x[:1])
    with pytest.raises(ValueError, match="threshold: got -1"):
        active_units(case.vae, case.x, threshold=-1)


def total(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def test_a_right_model_makes_data_like_its_own() -> None:
    """And one whose noise is too small does not."""
    case = linear_gaussian(exact=True, examples=300)
    check = posterior_predictive(case.vae, case.x, total, 200, seed=0)
    assert 0.01 < check.p_value < 0.99
    # Of each example it is spread at most as a uniform number is.
    assert check.p_values.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 300))
    assert torch.equal(check.observed, total(case.x))
    assert check.replicated.shape == (200, 300)
    share = (check.replicated > check.observed).double().mean(0)
    torch.testing.assert_close(check.p_values, share)  # no ties
    wrong = VAE(
        case.vae.prior,
        likelihoods.Gaussian(case.vae.likelihood.network, scale=0.2),
        case.vae.posterior,
    )
    assert posterior_predictive(wrong, case.x, total, 200, seed=0).p_value < 0.01


def test_ties_count_half() -> None:
    vae = bernoulli_vae()
    x = torch.bernoulli(torch.full((5, 6), 0.4))
    check = posterior_predictive(vae, x, lambda x: torch.ones(x.shape[:-1]), 10, seed=0)
    assert check.p_value == 0.5
    assert (check.p_values == 0.5).all()
    with pytest.raises(
        ValueError, match=r"statistic: gave \(\) for x of shape \(5, 6\), expected"
    ):
        posterior_predictive(vae, x, lambda x: x.mean(), 10)
