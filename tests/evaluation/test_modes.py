"""Evaluations within ``torch.inference_mode`` and ``torch.autocast``."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.evaluation import calibration, certify, elbo_gap

from ..vaes import linear_gaussian

EVALUATIONS: dict[str, Callable[[VAE, Tensor], Tensor]] = {
    "importance": lambda vae, x: log_likelihood(vae, x, 50, seed=0).values,
    "ais": lambda vae, x: log_likelihood(vae, x, 10, estimator="ais:10:3", seed=0).values,
    "gap": lambda vae, x: elbo_gap(vae, x, num_samples=30, steps=3, seed=0).amortization,
    "mcmc": lambda vae, x: calibration(vae, 20, 5, method="mcmc:5:2", seed=0).ranks,
    "certify": lambda vae, x: (
        certify(vae, num_examples=5, num_samples=5, estimator="ais:5:2", seed=0).lower
    ),
}


@pytest.mark.filterwarnings("ignore::pyro_vae.evaluation.UnreliableWeights")
@pytest.mark.parametrize("name", EVALUATIONS)
def test_inference_mode_changes_nothing(name: str) -> None:
    """Moves along gradients have them; x that was made in inference mode takes part."""
    vae = linear_gaussian(exact=False).vae
    x = linear_gaussian(exact=False).x
    expected = EVALUATIONS[name](vae, x)
    with torch.inference_mode():
        found = EVALUATIONS[name](vae, x.clone())
    assert torch.equal(found, expected)


def test_a_context_that_was_made_in_inference_mode_takes_part() -> None:
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.Conditioned(networks.MLP(2 + 3, (), 4), (), classes=3), 1.0),
        posteriors.Normal(networks.Conditioned(networks.MLP(4 + 3, (), 4), (), classes=3)),
    )
    labels = torch.arange(3)
    expected = calibration(vae, 9, 5, method="mcmc:5:2", context=labels, seed=0)
    with torch.inference_mode():
        found = calibration(vae, 9, 5, method="mcmc:5:2", context=labels.clone(), seed=0)
    assert torch.equal(found.ranks, expected.ranks)


def test_the_exact_evidence_is_not_rounded_by_autocast() -> None:
    """A linear network that autocast rounds is not affine."""
    own = linear_gaussian(exact=True)
    exact = log_likelihood(own.vae, own.x, estimator="exact").values
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="autocast"):
        assert torch.equal(log_likelihood(own.vae, own.x, estimator="exact").values, exact)
