"""Closed forms of the KL divergence: the integral, or an error."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Distribution, Independent, kl_divergence

from pyro_vae import posteriors, priors
from pyro_vae.distributions import check_analytic_kl

from ..tolerances import CLOSE
from ..vaes import Given


def quadrature_kl(q: Distribution, p: Distribution) -> float:
    line = torch.linspace(-20, 20, 1001, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_q = q.log_prob(z)
    area = (line[1] - line[0]).square()
    return (log_q.exp() * (log_q - p.log_prob(z))).sum().mul(area).item()


def normals() -> dict[str, Distribution]:
    torch.manual_seed(4)
    loc, scale = torch.randn(2).double(), torch.rand(2).double() + 0.5
    tril = torch.tensor([[0.9, 0.0], [-0.6, 0.7]]).double()
    return {
        "diagonal": dist.Normal(loc, scale).to_event(1),
        "full": dist.MultivariateNormal(loc + 0.3, scale_tril=tril),
        "low-rank": dist.LowRankMultivariateNormal(loc, torch.randn(2, 1).double(), scale),
        "laplace": dist.Laplace(loc - 0.2, scale).to_event(1),
    }


@pytest.mark.parametrize("p", ["diagonal", "full", "low-rank", "laplace"])
@pytest.mark.parametrize("q", ["diagonal", "full", "low-rank"])
def test_closed_forms_are_the_integral(q: str, p: str) -> None:
    first, second = normals()[q], normals()[p]
    if (q, p) == ("diagonal", "laplace") or "laplace" not in (q, p) or q != "laplace":
        expected = quadrature_kl(first, second)
        # The grid of h = 0.04 has an error of h^2 / 12 times the jump of the slope at a Laplace's
        # edge, which is 2 / scale, less than four.
        error = 4 * 0.04**2 / 12 if p == "laplace" else CLOSE
        assert kl_divergence(first, second).item() == pytest.approx(expected, abs=error)
        batch = first.expand((3,))
        torch.testing.assert_close(
            kl_divergence(batch, second.expand((3,))),
            kl_divergence(first, second).expand(3),
        )


def test_pairs_without_a_closed_form_have_none() -> None:
    q = dist.StudentT(torch.ones(2)).to_event(1)
    for p in (normals()["full"], normals()["low-rank"]):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
        with pytest.raises(NotImplementedError):
            kl_divergence(p, q)
    assert isinstance(q, Independent)


def test_kl_forms_of_pyro_are_left_alone() -> None:
    delta = dist.Delta(torch.ones(2)).to_event(1)
    normal = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert kl_divergence(delta, normal).item() == pytest.approx(-normal.log_prob(torch.ones(2)))


def test_analytic_kl_raises_where_it_is_infinite() -> None:
    q = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
    p = dist.Uniform(-torch.ones(2), torch.ones(2)).to_event(1)
    with pytest.raises(ValueError, match="the closed form is infinite"):
        check_analytic_kl(q, p)


def test_kl_is_the_lectures_closed_form() -> None:
    numbers = torch.randn(4, 6).double()
    mu, sigma = numbers[:, :3], torch.log1p(numbers[:, 3:].exp()) + posteriors.SCALE_FLOOR
    lecture = 0.5 * (mu**2 + sigma**2 - (sigma**2).log() - 1).sum(1)
    q_z = posteriors.Normal(Given(6))(numbers)
    kl = torch.distributions.kl_divergence(q_z, priors.StandardNormal(3).double()())
    assert torch.allclose(kl, lecture, rtol=1e-12)
    # The slide for general covariances, with the matrices written out.
    covariance = torch.diag_embed(sigma**2)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    general = 0.5 * (trace + (mu * mu).sum(1) - 3 - torch.logdet(covariance))
    assert torch.allclose(general, lecture, rtol=1e-12)
