"""Gaussian mixtures fitted to latent points by expectation-maximization, with scikit-learn."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.priors import SCALE_FLOOR, GaussianMixture
from pyro_vae.utils.extras import extra

__all__ = ["fit_mixture"]

_STARTS = 10
_TOLERANCE = 1e-6
"""Of the mean log-likelihood, in nats. With scikit-learn's 1e-3, EM ends while clusters move."""
_ADDED = 1e-6
"""Added to all variances, as scikit-learn does: a component may have a single point."""


@torch.no_grad()
def fit_mixture(prior: GaussianMixture, points: Tensor, draws: Tensor) -> None:
    """Sets a prior to the moments of draws of z within the clusters of their latent points.

    The clusters are the components that EM finds from the best of ten runs of k-means. A point
    belongs to each with a probability, as in an M-step. The points alone would leave the
    posteriors' own variances out. Draws from torch's generator.

    Of several ends of EM, the likeliest need not be the best: it gains by splitting narrow
    clusters, such as that of a digit 1, while wide ones stay together.

    Arguments:
        prior: The mixture, changed in place; it keeps its components and kind of covariance.
        points: The latent point of each example, of shape ``(N, z_dim)``.
        draws: A draw of z of each example, of the same shape.

    Raises:
        ValueError: There are fewer different points than components, or of another dimension.
        ModuleNotFoundError: scikit-learn is not installed.

    Example:
        >>> from pyro_vae.models.em import fit_mixture
        >>> prior, points = priors.GaussianMixture(2, components=1), torch.randn(50, 2)
        >>> fit_mixture(prior, points, points)
        >>> bool(torch.isclose(prior().mean, points.mean(0), atol=1e-5).all())
        True
    """
    components, z_dim = prior.loc.shape
    if points.dim() != 2 or points.shape[1] != z_dim or len(points) < components:
        raise ValueError(
            f"x: got latent points of shape {tuple(points.shape)}, expected (N, {z_dim}) with N "
            f"at least {components}, the number of components"
        )
    if (different := len(points.unique(dim=0))) < components:
        raise ValueError(
            f"x: got {different} different latent points, expected at least {components}, the "
            "number of components"
        )
    shares = _clusters(points.double().cpu(), components, full=prior.below is not None)
    weights, loc, covariance = _moments(draws.double().cpu(), shares)
    prior.logits.copy_(weights.log())
    prior.loc.copy_(loc)
    if prior.below is None:
        scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    else:
        tril = torch.linalg.cholesky(covariance)
        rows, columns = torch.tril_indices(z_dim, z_dim, -1)
        prior.below.copy_(tril[:, rows, columns])
        scale = tril.diagonal(dim1=-2, dim2=-1)
    above = scale - SCALE_FLOOR
    prior.raw_scale.copy_(above + (-torch.expm1(-above)).log())  # the inverse of softplus


def _clusters(points: Tensor, components: int, full: bool) -> Tensor:
    """The probabilities of each component, of shape ``(components, N)``."""
    mixture, kmeans = _classes()
    known, seed = points.numpy(), int(torch.randint(2**31, ()))
    found = kmeans(components, n_init=_STARTS, random_state=seed).fit(known).labels_
    shares = torch.nn.functional.one_hot(torch.from_numpy(found).long(), components).double().T
    weights, loc, covariance = _moments(points, shares)
    if not full:
        covariance = covariance.diagonal(dim1=-2, dim2=-1)
    precision = covariance.inverse() if full else 1 / covariance
    start = {"weights_init": weights, "means_init": loc, "precisions_init": precision}
    fitted = mixture(
        components,
        covariance_type="full" if full else "diag",
        init_params="random_from_data",  # replaced by the start
        max_iter=1000,
        tol=_TOLERANCE,
        reg_covar=_ADDED,
        random_state=seed,
        **{name: value.numpy() for name, value in start.items()},
    ).fit(known)
    return torch.from_numpy(fitted.predict_proba(known)).T


def _moments(z: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weight, the mean and the covariance of each component."""
    counts = shares.sum(1, keepdim=True)
    loc = shares @ z / counts
    off = z - loc[:, None]  # (components, N, z_dim)
    covariance = (shares.unsqueeze(-1) * off).mT @ off / counts.unsqueeze(-1)
    return counts[:, 0] / counts.sum(), loc, covariance + _ADDED * torch.eye(z.shape[-1])


def _classes() -> tuple[Any, Any]:
    """scikit-learn's classes, which are imported only where a mixture is fitted."""
    with extra("clusters", {"sklearn": "scikit-learn"}, "a mixture"):
        from sklearn.cluster import KMeans
        from sklearn.mixture import GaussianMixture as Mixtures
    return Mixtures, KMeans
