"""Integrals on grids: over all reals, over intervals, and over the latents of a VAE."""

import math

import pytest
import torch
from torch import Tensor

from pyro_vae import VAE, log_likelihood


def nodes(box: bool) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1) or on all reals, dense at the ends (double exponential).

    Source: Takahasi and Mori (1974).
    """
    end, points = (2.9, 4001) if box else (4.5, 8001)
    t = torch.linspace(-end, end, points, dtype=torch.float64)
    inner, step = math.pi / 2 * t.sinh(), t[1] - t[0]
    if box:
        return (1 + inner.tanh()) / 2, step * math.pi / 4 * t.cosh() / inner.cosh().square()
    return inner.sinh(), step * math.pi / 2 * t.cosh() * inner.cosh()


def latent_grid(vae: VAE, points: int) -> tuple[Tensor, Tensor]:
    """Latent points on the prior's support, and the log of each one's share of it.

    All reals are reached by z = t / (1 - t^2), whose tails are those of 1 / (1 - t).
    """
    t = (torch.arange(points).double() + 0.5) / points
    support = vae.prior().support
    low = getattr(support.base_constraint, "lower_bound", None)
    if low is not None:
        high = support.base_constraint.upper_bound
        width = (high - low)[0].double()
        return low[0] + width * t, torch.full_like(t, (width / points).log().item())
    t = 2 * t - 1
    slope = (1 + t.square()) / (1 - t.square()).square()
    return t / (1 - t.square()), (slope * 2 / points).log()


def evidence(vae: VAE, x: Tensor, points: int, z_dim: int) -> Tensor:
    """log p(x) by the midpoint rule."""
    line, log_width = latent_grid(vae, points)
    z = torch.cartesian_prod(*[line] * z_dim).reshape(-1, z_dim)
    log_widths = torch.cartesian_prod(*[log_width] * z_dim).reshape(-1, z_dim).sum(-1)
    with torch.no_grad():
        log_p_z = vae.prior().log_prob(z) + log_widths
        assert log_p_z.logsumexp(0).item() == pytest.approx(0.0, abs=1e-3)  # the prior has mass 1
        log_p_x = [vae.likelihood(z).log_prob(each) for each in x]
    return torch.stack([(log_p_z + each).logsumexp(0) for each in log_p_x])


def check_against_quadrature(vae: VAE, x: Tensor, points: int, z_dim: int) -> None:
    exact = evidence(vae, x, points, z_dim)
    samples = 8000
    result = log_likelihood(vae, x, samples, seed=0)
    # The delta method's error of each value, and its bias, half the variance.
    variance = (samples / result.ess - 1) / (samples - 1)
    bound = 5 * variance.sqrt() + variance / 2 + 2e-3  # the last for the grid
    assert ((result.values - exact).abs() < bound).all()
