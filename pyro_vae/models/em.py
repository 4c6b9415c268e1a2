"""Gaussian mixtures fitted to latent points by expectation-maximization, with scikit-learn."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.priors import SCALE_FLOOR, GaussianMixture

__all__ = ["fit_mixture"]

_STARTS = 3
_TOLERANCE = 1e-6
"""Of the mean log-likelihood, in nats. With scikit-learn's 1e-3, EM ends while clusters move."""
_ADDED = 1e-6
"""Added to all variances, as scikit-learn does: a component may have a single point."""


@torch.no_grad()
def fit_mixture(prior: GaussianMixture, points: Tensor, draws: Tensor) -> None:
    """Sets a prior to the moments of draws of z within the clusters of their latent points.

    The clusters are the components of the mixture with the greatest likelihood of the points that
    EM finds in three starts. A point belongs to each with a probability, as in an M-step. The
    points alone would leave the posteriors' own variances out. Draws from torch's generator.

    Arguments:
        prior: The mixture, changed in place; it keeps its components and kind of covariance.
        points: The latent point of each example, of shape ``(N, z_dim)``.
        draws: A draw of z of each example, of the same shape.

    Raises:
        ValueError: There are fewer points than components, or of another dimension.
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
    mixture = _mixtures()(
        components,
        covariance_type="diag" if prior.below is None else "full",
        n_init=_STARTS,
        max_iter=1000,
        tol=_TOLERANCE,
        reg_covar=_ADDED,
        random_state=int(torch.randint(2**31, ())),
    )
    known = points.double().cpu().numpy()
    shares = torch.from_numpy(mixture.fit(known).predict_proba(known)).T
    counts, z = shares.sum(1, keepdim=True), draws.double().cpu()
    loc = shares @ z / counts
    off = z - loc[:, None]  # (components, N, z_dim)
    prior.logits.copy_(counts[:, 0].log() - counts.sum().log())
    prior.loc.copy_(loc)
    if prior.below is None:
        scale = ((shares.unsqueeze(-1) * off.square()).sum(1) / counts + _ADDED).sqrt()
    else:
        covariance = (shares.unsqueeze(-1) * off).mT @ off / counts.unsqueeze(-1)
        tril = torch.linalg.cholesky(covariance + _ADDED * torch.eye(z_dim))
        rows, columns = torch.tril_indices(z_dim, z_dim, -1)
        prior.below.copy_(tril[:, rows, columns])
        scale = tril.diagonal(dim1=-2, dim2=-1)
    above = scale - SCALE_FLOOR
    prior.raw_scale.copy_(above + (-torch.expm1(-above)).log())  # the inverse of softplus


def _mixtures() -> Any:
    """scikit-learn's class, which is imported only where a mixture is fitted."""
    try:
        from sklearn.mixture import GaussianMixture as Mixtures
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "sklearn":
            raise
        raise ModuleNotFoundError(
            "scikit-learn: not installed, expected to fit a mixture: pip install "
            "'pyro_vae[clusters]'",
            name="sklearn",
        ) from error
    return Mixtures
