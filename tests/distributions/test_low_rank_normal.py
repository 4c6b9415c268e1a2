"""Low-rank normals: the digits that torch loses."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import VAE, distributions, likelihoods, log_likelihood, networks, posteriors, priors

from ..tolerances import assert_rounded, rounding


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("scale", [1.0, 1e-2, posteriors.SCALE_FLOOR])
def test_low_rank_normals_keep_their_digits(scale: float, rank: int) -> None:
    """Of the same float32 numbers, against torch's own in float64."""
    z_dim = 6
    loc, factor = torch.randn(4, z_dim), torch.randn(4, z_dim, rank)
    diagonal = torch.full((4, z_dim), scale**2)
    q = distributions.LowRankNormal(loc, factor, diagonal)
    exact = dist.LowRankMultivariateNormal(loc.double(), factor.double(), diagonal.double())
    z = q.rsample((50,))
    assert z.dtype == q.mean.dtype == q.variance.dtype == q.stddev.dtype == torch.float32
    # Computed in float64, where squares over the diagonal cancel, and rounded.
    terms = ((z - loc).double().square() / diagonal).sum(-1)
    expected = exact.log_prob(z.double())
    error = rounding(30, torch.float64) * terms + rounding(2) * expected.abs()
    assert ((q.log_prob(z).double() - expected).abs() <= error).all()
    assert_rounded(q.entropy(), exact.entropy(), terms=2)
    assert_rounded(q.variance, exact.variance, terms=2)
    expanded = q.expand((3, 4))
    assert ((expanded.log_prob(z[:3]).double() - expected[:3]).abs() <= error[:3]).all()
    assert expanded.sample().dtype == torch.float32
    wide = torch.eye(z_dim)[:, :2] + 0.3
    for p in (
        dist.Normal(torch.zeros(z_dim), 2.0).to_event(1),
        dist.MultivariateNormal(torch.ones(z_dim), 2 * torch.eye(z_dim)),
        dist.LowRankMultivariateNormal(torch.ones(z_dim), wide, torch.ones(z_dim)),
    ):
        p64 = getattr(p, "base_dist", p)
        covariance = (
            torch.diag(p64.variance.double())
            if isinstance(p64, dist.Normal)
            else p64.covariance_matrix.double()
        )
        whole = torch.distributions.MultivariateNormal(p.mean.double(), covariance)
        dense = torch.distributions.MultivariateNormal(exact.loc, exact.covariance_matrix)
        if scale < 1e-3 and rank < z_dim:
            continue  # the dense covariance has not enough digits itself
        kl = torch.distributions.kl_divergence(q, p)
        assert kl.dtype == torch.float32
        expected = torch.distributions.kl_divergence(dense, whole)
        # A trace, a squared distance and two logarithms of determinants, of six numbers each.
        size = expected + exact.entropy().abs() + 2 * z_dim
        assert_rounded(kl, expected, terms=4 * z_dim, magnitude=size)


def test_sharp_low_rank_posteriors_give_the_exact_log_likelihood() -> None:
    """A decoder of one direction, whose posterior is sharp across it and wide along it."""
    z_dim, x_dim, s = 4, 3, 1e-3
    weight = torch.linalg.qr(torch.randn(z_dim, z_dim)).Q[:x_dim]  # rows are orthonormal
    along = torch.linalg.svd(weight).Vh[x_dim:]  # what x says nothing of
    variance = 1 / (1 + s**-2)
    decoder = networks.MLP(z_dim, (), x_dim)
    encoder = networks.MLP(x_dim, (), 3 * z_dim)
    with torch.no_grad():
        decoder.layers[0].weight.copy_(weight)
        decoder.layers[0].bias.zero_()
        encoder.layers[0].weight.zero_()
        encoder.layers[0].weight[:z_dim] = variance / s**2 * weight.T
        raw = math.log(math.expm1(math.sqrt(variance) - posteriors.SCALE_FLOOR))
        factor = along[0] * math.sqrt(1 - variance)
        encoder.layers[0].bias.copy_(
            torch.cat((torch.zeros(z_dim), torch.full((z_dim,), raw), factor))
        )
    vae = VAE(
        priors.StandardNormal(z_dim),
        likelihoods.Gaussian(decoder, scale=s),
        posteriors.LowRankNormal(encoder, rank=1),
    )
    x = torch.randn(20, x_dim)
    exact = dist.Normal(0.0, math.sqrt(1 + s**2)).log_prob(x).sum(1)
    result = log_likelihood(vae, x, 50, seed=0)
    # In units of the posterior's width s, float32 rounds the decoder's products of z, which is up
    # to three, and so the deviation of each of the pixels, of which none is above four.
    error = x_dim * 4 * rounding(z_dim + 2) * 3 / s
    torch.testing.assert_close(result.values.float(), exact, rtol=0, atol=error)
