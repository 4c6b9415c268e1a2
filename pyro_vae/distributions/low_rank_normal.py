"""A normal of low-rank covariance, computed in float64."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["LowRankNormal"]


class LowRankNormal(dist.LowRankMultivariateNormal):
    r"""A normal of covariance :math:`W W^\top + D`, computed in float64.

    Its log-density is the difference of two terms that grow with :math:`|W|^2 / D`. torch's class
    subtracts them in float32, which leaves an error of a tenth of a nat for scales of 1/100 and
    factors of one, and of many nats for scales of 1/1000. Draws, moments and log-densities have
    the dtype of `loc`.

    Arguments:
        loc: Mean, shape ``(*batch, z_dim)``.
        cov_factor: W, shape ``(*batch, z_dim, rank)``.
        cov_diag: Diagonal of D, shape ``(*batch, z_dim)``.

    Raises:
        ValueError: The covariance is singular up to rounding.

    Example:
        >>> from pyro_vae.distributions import LowRankNormal
        >>> q_z = LowRankNormal(torch.zeros(7, 3), torch.ones(7, 3, 2), torch.ones(7, 3))
        >>> q_z.log_prob(q_z.rsample()).shape
        torch.Size([7])
    """

    def __init__(
        self,
        loc: Tensor,
        cov_factor: Tensor,
        cov_diag: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self._dtype = loc.dtype
        try:
            super().__init__(
                loc.double(), cov_factor.double(), cov_diag.double(), validate_args=validate_args
            )
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise ValueError(
                f"cov_factor: got values up to {cov_factor.abs().max().item():g} for a cov_diag "
                f"from {cov_diag.min().item():g}, expected a covariance that float64 can tell "
                "from a singular one"
            ) from error

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LowRankNormal":
        new = super().expand(
            torch.Size(batch_shape), self._get_checked_instance(LowRankNormal, _instance)
        )
        new._dtype = self._dtype
        return new

    @property
    def mean(self) -> Tensor:
        return super().mean.to(self._dtype)

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def variance(self) -> Tensor:
        variance = self.cov_factor.square().sum(-1) + self.cov_diag
        return variance.to(self._dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return super().rsample(torch.Size(sample_shape)).to(self._dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.double()).to(self._dtype)

    def entropy(self) -> Tensor:
        return super().entropy().to(self._dtype)
