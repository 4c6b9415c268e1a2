"""The exact evidence of linear-Gaussian VAEs."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, priors

from ...vaes import linear_gaussian


class TestExact:
    def test_priors_that_are_not_standard(self) -> None:
        """Against importance weights of many samples."""
        covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]]).double()

        def prior() -> dist.Distribution:
            return dist.MultivariateNormal(torch.tensor([0.5, -1.0]).double(), covariance)

        vae = linear_gaussian(exact=False, examples=20).vae
        vae = VAE(prior, vae.likelihood, vae.posterior)
        x = vae.generate(20, sample=True)
        exact = log_likelihood(vae, x, estimator="exact")
        result = log_likelihood(vae, x, 5000, estimator="prior", seed=0)
        error = (1 / result.ess - 1 / 5000).sqrt()
        assert ((result.values - exact.values).abs() < 5 * error).all()
        assert exact.num_samples == 0
        assert exact.mc_error == 0
        assert exact.estimator == "exact"
        assert exact.interval() == (exact.mean, exact.mean)

    @pytest.mark.parametrize(
        ("prior", "likelihood", "message"),
        [
            (priors.Laplace(2), None, r"prior: got .*Laplace.*, expected a normal"),
            (None, likelihoods.Bernoulli(networks.MLP(2, (), 5)), "expected independent normals"),
            (
                None,
                likelihoods.Gaussian(networks.MLP(2, (4,), 5), scale=1.0),
                "its mean is not affine in z",
            ),
            (
                None,
                likelihoods.Gaussian(networks.MLP(2, (), (2, 5)), scale="pixel"),
                "its scale depends on z",
            ),
        ],
    )
    def test_what_has_no_closed_form(
        self, prior: nn.Module | None, likelihood: nn.Module | None, message: str
    ) -> None:
        vae = VAE(
            prior or priors.StandardNormal(2),
            likelihood or likelihoods.Gaussian(networks.MLP(2, (), 5), scale=1.0),
            posteriors.Normal(networks.MLP(5, (), 4)),
        )
        with pytest.raises(ValueError, match=message):
            log_likelihood(vae, torch.zeros(3, 5), estimator="exact")


def test_the_linear_gaussian_pair_in_float64() -> None:
    case = linear_gaussian(exact=False)
    exact = case.evidence.log_prob(case.x)
    torch.testing.assert_close(
        log_likelihood(case.vae, case.x, estimator="exact").values, exact, rtol=1e-10, atol=0
    )
