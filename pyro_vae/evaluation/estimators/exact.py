"""The exact evidence of a VAE that is linear and Gaussian."""

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from pyro_vae.contracts import call
from pyro_vae.distributions import describe_distribution
from pyro_vae.utils.modules import device_of, dtype_of
from pyro_vae.vae import VAE

_POINTS = (0.1, 1.0, 10.0, 100.0)  # distances from 0 at which the decoder has to be affine


def evidence(vae: VAE, x: Tensor) -> Tensor:
    r"""log p(x) of each example in closed form, in nats, in float64.

    With :math:`z \sim \mathcal{N}(m, S)` and :math:`x|z \sim \mathcal{N}(W z + b, D)`,

    .. math:: x \sim \mathcal{N}(W m + b,\; W S W^T + D)

    Whether the decoder is affine, and D the same for all z, is seen at a few random z, to float
    rounding. Source: Bishop (2006), Pattern Recognition and Machine Learning, equation 2.115.

    Arguments:
        vae: In eval mode.
        x: Shape ``(N, *x_shape)``.

    Raises:
        ValueError: Prior or likelihood is not Gaussian, the decoder's mean is not affine in z, or
            the scale depends on z.
    """
    loc, covariance = _moments("prior", call(vae, "prior"))
    size = len(loc)
    # The origin, the unit vectors, and where an affine map has to agree with what these say.
    basis = torch.cat((torch.zeros(1, size, device="cpu"), torch.eye(size, device="cpu")))
    generator = torch.Generator("cpu").manual_seed(0)
    probes = torch.randn(len(_POINTS), 3, size, generator=generator, device="cpu")
    probes = (torch.tensor(_POINTS, device="cpu")[:, None, None] * probes).flatten(0, 1)
    z = torch.cat((basis, probes)).to(device_of(vae), dtype_of(vae))
    p_x = call(vae, "likelihood", z)
    mean, scale = _pixels(p_x)
    offset, weight = mean[0], mean[1 : size + 1] - mean[0]
    expected = offset + z[size + 1 :].double() @ weight
    size_of_terms = offset.abs() + z[size + 1 :].double().abs() @ weight.abs()
    tolerance = 1e3 * torch.finfo(dtype_of(vae)).eps * (size_of_terms + mean.abs().amax())
    if ((mean[size + 1 :] - expected).abs() > tolerance).any():
        raise ValueError(
            "likelihood: its mean is not affine in z, expected a linear network for the exact "
            "evidence"
        )
    if ((scale - scale[0]).abs() > 1e2 * torch.finfo(dtype_of(vae)).eps * scale[0]).any():
        raise ValueError(
            "likelihood: its scale depends on z, expected one for all z for the exact evidence"
        )
    factor = weight.T @ torch.linalg.cholesky(covariance)
    marginal = LowRankMultivariateNormal(
        offset + loc @ weight, factor, scale[0].square(), validate_args=False
    )
    return marginal.log_prob(x.double().flatten(1))


def _moments(part: str, distribution: Distribution) -> tuple[Tensor, Tensor]:
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    if isinstance(base, MultivariateNormal | LowRankMultivariateNormal):
        return base.mean.double(), base.covariance_matrix.double()
    if isinstance(base, Normal):
        return base.mean.double(), base.variance.double().diag()
    raise ValueError(
        f"{part}: got {describe_distribution(distribution)}, expected a normal for the exact evidence"
    )


def _pixels(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each number of x, of shape ``(points, numbers)``."""
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise ValueError(
            f"likelihood: got {describe_distribution(distribution)}, expected independent normals for the "
            "exact evidence"
        )
    shape = distribution.batch_shape + distribution.event_shape
    return tuple(
        value.expand(shape).double().flatten(len(distribution.batch_shape))
        for value in (base.mean, base.stddev)
    )  # type: ignore[return-value]
