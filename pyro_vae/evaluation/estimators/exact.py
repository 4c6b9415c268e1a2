"""The exact log-likelihood of a linear-Gaussian VAE."""

from collections.abc import Sequence

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
from pyro_vae.distributions import Observed, describe_distribution
from pyro_vae.utils.context import rows
from pyro_vae.utils.modules import device_of, dtype_of
from pyro_vae.vae import VAE

_SCALES = (0.1, 1.0, 10.0, 100.0)  # scales of the random z at which the decoder has to be affine


def evidence(vae: VAE, x: Tensor, *context: Tensor) -> Tensor:
    r"""Returns log p(x) of a linear-Gaussian VAE in closed form.

    With :math:`z \sim \mathcal{N}(m, S)` and :math:`x|z \sim \mathcal{N}(W z + b, D)`,

    .. math:: x \sim \mathcal{N}(W m + b,\; W S W^T + D)

    Of x with NaN, it is the density of the entries that are observed, whose marginal is normal,
    too. A few random z are used to check, to float rounding, that the decoder is affine and that D
    is the same for all z. The guide is not used.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, equation 2.115.

    Arguments:
        vae: The VAE, in eval mode.
        x: Data of shape ``(N, *x_shape)`` on the VAE's device.
        context: What is given with each example. The map from z to x may be another one for each.

    Returns:
        log p(x) in nats, in float64, shape ``(N,)``.

    Raises:
        ValueError: The prior or the likelihood is not Gaussian, the likelihood's mean is not
            affine in z, or its scale depends on z.

    Example:
        >>> from pyro_vae.evaluation.estimators import evidence
        >>> decoder, encoder = networks.MLP(2, (), 16), networks.MLP(16, (), 4)
        >>> likelihood = likelihoods.Gaussian(decoder, scale=0.5)
        >>> vae = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(encoder))
        >>> with torch.no_grad():
        ...     evidence(vae, torch.randn(7, 16)).shape
        torch.Size([7])
    """
    with torch.autocast(x.device.type, enabled=False):  # by whose rounding nothing is affine
        if context:
            each = (rows((x, *context), slice(n, n + 1)) for n in range(len(x)))
            return torch.cat([_evidence(vae, own, given) for own, *given in each])
        return _evidence(vae, x, ())


def _evidence(vae: VAE, x: Tensor, context: Sequence[Tensor]) -> Tensor:
    """Returns log p(x) of examples that have one context, or none."""
    loc, covariance = _moments("prior", call(vae, "prior", context=context))
    size = len(loc)
    # The origin and the unit vectors determine an affine map, which the probes then test.
    basis = torch.cat((torch.zeros(1, size, device="cpu"), torch.eye(size, device="cpu")))
    generator = torch.Generator("cpu").manual_seed(0)
    probes = torch.randn(len(_SCALES), 3, size, generator=generator, device="cpu")
    probes = (torch.tensor(_SCALES, device="cpu")[:, None, None] * probes).flatten(0, 1)
    z = torch.cat((basis, probes)).to(device_of(vae), dtype_of(vae))
    given = [entry.expand(len(z), *entry.shape[1:]) for entry in context]
    p_x = call(vae, "likelihood", z, context=given)
    mean, scale = _pixels(p_x)
    offset, weight = mean[0], mean[1 : size + 1] - mean[0]
    expected = offset + z[size + 1 :].double() @ weight
    size_of_terms = offset.abs() + z[size + 1 :].double().abs() @ weight.abs()
    tolerance = 1e3 * torch.finfo(dtype_of(vae)).eps * (size_of_terms + mean.abs().amax())
    if ((mean[size + 1 :] - expected).abs() > tolerance).any():
        raise ValueError(
            "likelihood: its mean is not affine in z, expected a linear network for the exact "
            "log-likelihood"
        )
    if ((scale - scale[0]).abs() > 1e2 * torch.finfo(dtype_of(vae)).eps * scale[0]).any():
        raise ValueError(
            "likelihood: its scale depends on z, expected the same scale for all z for the exact "
            "log-likelihood"
        )
    factor = weight.T @ torch.linalg.cholesky(covariance)
    return _marginal(x.double().flatten(1), offset + loc @ weight, factor, scale[0].square())


def _marginal(x: Tensor, loc: Tensor, factor: Tensor, diagonal: Tensor) -> Tensor:
    """The log-density of what is not NaN in x, which is normal too; 0 where nothing is."""
    patterns, which = torch.isnan(x).unique(dim=0, return_inverse=True)
    values = torch.zeros_like(x[:, 0])
    for index, holes in enumerate(patterns):
        own, seen = which == index, ~holes
        if seen.any():
            part = loc[seen], factor[seen], diagonal[seen]
            marginal = LowRankMultivariateNormal(*part, validate_args=False)
            values[own] = marginal.log_prob(x[own][:, seen])
    return values


def _moments(part: str, distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Returns the mean and the covariance of a normal distribution, in float64."""
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    size = distribution.event_shape[0]  # With a context, there is a batch of one.
    if isinstance(base, MultivariateNormal | LowRankMultivariateNormal):
        covariance = base.covariance_matrix.double()
        return base.mean.double().reshape(size), covariance.reshape(size, size)
    if isinstance(base, Normal):
        return base.mean.double().reshape(size), base.variance.double().reshape(size).diag()
    raise ValueError(
        f"{part}: got {describe_distribution(distribution)}, expected a normal distribution for "
        "the exact log-likelihood"
    )


def _pixels(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Returns the mean and standard deviation of each pixel, of shape ``(points, pixels)``."""
    base = distribution
    while isinstance(base, Independent | Observed):
        base = base.base if isinstance(base, Observed) else base.base_dist
    if not isinstance(base, Normal):
        raise ValueError(
            f"likelihood: got {describe_distribution(distribution)}, expected independent normals "
            "for the exact log-likelihood"
        )
    shape = distribution.batch_shape + distribution.event_shape
    return tuple(
        value.expand(shape).double().flatten(len(distribution.batch_shape))
        for value in (base.mean, base.stddev)
    )  # type: ignore[return-value]
