"""Every estimator against closed forms and quadrature, and estimators by name."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.evaluation import active_units, certify, posterior_predictive
from pyro_vae.evaluation.estimators import AIS

from ...pairs import two_layers, two_layers_evidence, two_layers_guide
from ...vaes import bernoulli_vae, linear_gaussian, log_evidence

PRIORS: dict[str, Callable[[], nn.Module]] = {
    "StudentT": lambda: priors.StudentT(1, df=3.0),
    "Laplace": lambda: priors.Laplace(1),
    "GaussianMixture": lambda: priors.GaussianMixture(1, 3),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("estimator", ["importance", "prior", AIS(40, 4)])
def test_estimators_agree_with_quadrature(prior: str, estimator: Any) -> None:
    vae = bernoulli_vae(1)
    vae = VAE(PRIORS[prior](), vae.likelihood, vae.posterior).double()
    x = torch.bernoulli(torch.full((20, 6), 0.4)).double()
    exact = log_evidence(vae, x, points=10_001, limit=100.0)
    count = 32 if isinstance(estimator, AIS) else 4000
    result = log_likelihood(vae, x, count, estimator=estimator, seed=0)
    bias = 20 * result.mc_error**2 / 2
    # A Student t and a normal guide: its errors are a little too small, by their tails.
    assert abs(result.mean + bias - exact.mean().item()) < 5 * result.mc_error + 1e-6


@pytest.mark.parametrize("estimator", ["importance", "prior", AIS(40, 4)])
def test_a_bounded_latent_agrees_with_quadrature(estimator: Any) -> None:
    narrow = posteriors.Normal(networks.MLP(6, (), 2))
    vae = VAE(
        priors.Uniform(1, -1.0, 2.0),
        likelihoods.Bernoulli(networks.MLP(1, (8,), 6, nn.Tanh)),
        posteriors.Squashed(narrow, -1.0, 2.0),
    ).double()
    x = torch.bernoulli(torch.full((20, 6), 0.4)).double()
    line = torch.linspace(-1, 2, 5001).double()
    middle = (line[1:] + line[:-1]) / 2
    with torch.no_grad():
        z = middle[:, None, None].expand(-1, 20, 1)
        exact = vae.likelihood(z).log_prob(x).logsumexp(0) - math.log(5000)
    count = 32 if isinstance(estimator, AIS) else 4000
    result = log_likelihood(vae, x, count, estimator=estimator, seed=0)
    bias = 20 * result.mc_error**2 / 2
    assert abs(result.mean + bias - exact.mean().item()) < 5 * result.mc_error + 1e-6


def test_the_naive_estimator_fails_as_latents_grow() -> None:
    """Its error grows far faster with z_dim than that of a guide that is a little off."""
    errors: dict[str, list[float]] = {"prior": [], "importance": []}
    for z_dim in (1, 4, 12):
        case = linear_gaussian(
            exact=False, examples=30, z_dim=z_dim, x_dim=20, shift=0.05, width=1.2, s=0.2
        )
        exact = case.evidence.log_prob(case.x).mean().item()
        for name, found in errors.items():
            found.append(exact - log_likelihood(case.vae, case.x, 100, estimator=name).mean)
    assert errors["prior"][-1] > 10 * errors["prior"][0] + 10
    assert errors["prior"][-1] > 50 * errors["importance"][-1]


def test_settings_of_an_estimator_are_kept(tmp_path: Any) -> None:
    case = linear_gaussian(exact=False, examples=3)
    named = log_likelihood(case.vae, case.x, 3, estimator="ais:4:2", seed=0)
    given = log_likelihood(case.vae, case.x, 3, estimator=AIS(np.int64(4), 2), seed=0)
    given.save(tmp_path / "result.json")
    assert torch.equal(named.values, given.values)
    assert named.to_dict()["estimator_settings"] == {"temperatures": 4, "leapfrog_steps": 2}
    assert log_likelihood(case.vae, case.x, 3, seed=0).estimator_settings == {}


def test_wrong_estimators_and_vaes() -> None:
    vae, x = bernoulli_vae(), torch.zeros(2, 6)
    for wrong in (AIS, None, 3):
        with pytest.raises(TypeError, match=r"estimator: got .*, expected a name or an est"):
            log_likelihood(vae, x, 5, estimator=wrong)
    for call in (
        lambda: certify(nn.Identity()),
        lambda: active_units(nn.Identity(), x),
        lambda: posterior_predictive(nn.Identity(), x, torch.sum),
    ):
        with pytest.raises(TypeError, match="vae: got an Identity, expected a VAE"):
            call()


@pytest.mark.parametrize(
    ("estimator", "num_samples"),
    [("importance", 4000), ("prior", 4000), (AIS(30, 5), 32)],
)
def test_two_layers_have_their_evidence(estimator: Any, num_samples: int) -> None:
    evidence = two_layers_evidence()
    x = evidence.sample((70,))
    result = log_likelihood(
        x=x, num_samples=num_samples, model=two_layers, guide=two_layers_guide,
        estimator=estimator, seed=0,
    )  # fmt: skip
    exact = evidence.log_prob(x)
    assert result.values.shape == (70,)
    # The bias of each value is about half its variance.
    bias = 70 * result.mc_error**2 / 2
    assert abs(result.mean + bias - exact.mean().item()) < 4 * result.mc_error
