"""Mixtures of any distributions, and of diagonal normals with reparameterized draws."""

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["Mixture", "NormalMixture", "lower_triangular"]

_FARTHEST = 2.0**20
"""Distances of means over scales, whose squares are resolved in float64 to 1e-3 nats."""


def lower_triangular(diagonal: Tensor, below: Tensor) -> Tensor:
    """Matrices of a diagonal, ``(*batch, d)``, and the rows below it, ``(*batch, d(d-1)/2)``.

    Example:
        >>> from pyro_vae.distributions import lower_triangular
        >>> lower_triangular(torch.tensor([1.0, 2.0]), torch.tensor([3.0])).tolist()
        [[1.0, 0.0], [3.0, 2.0]]
    """
    tril = torch.diag_embed(diagonal)
    size = diagonal.shape[-1]
    rows, columns = torch.tril_indices(size, size, -1, device=diagonal.device)
    tril[..., rows, columns] = below
    return tril


class Mixture(dist.MixtureSameFamily):
    r"""A mixture, :math:`\sum_k w_k\, p_k(z)`, on the support of its components.

    The support of torch's class has no transform from the reals, which samplers such as NUTS need.

    Arguments:
        mixture_distribution: A ``Categorical`` over the K components, batch shape ``batch``.
        component_distribution: The components, batch shape ``(*batch, K)``.

    Example:
        >>> from pyro_vae.distributions import Mixture
        >>> weights = pyro.distributions.Categorical(logits=torch.zeros(5))
        >>> components = pyro.distributions.Normal(torch.randn(5, 2), torch.ones(5, 2))
        >>> Mixture(weights, components.to_event(1)).sample((7,)).shape
        torch.Size([7, 2])
    """

    @property
    def support(self) -> constraints.Constraint:
        return self.component_distribution.support


class NormalMixture(Mixture):
    r"""A mixture of diagonal normals, :math:`\sum_k w_k \mathcal{N}(z; \mu_k, diag(\sigma_k^2))`.

    Without batch dimensions, log-densities are computed by matrix products, since that of each
    component is linear in :math:`(z^2, z, 1)`. This is done in float64: the three terms cancel.
    They leave no digits where a mean is :math:`2^{20}` of its own scales away from the others: a
    ValueError says so, and without validation, as in compiled code, the log-density is NaN.
    Draws are reparameterized implicitly. With :math:`u_d = F(z_d | z_{<d})`, which is uniform for
    any parameters,

    .. math:: \frac{dz}{d\theta} =
        -\left(\frac{\partial u}{\partial z}\right)^{-1} \frac{\partial u}{\partial \theta}

    Source: Figurnov, Mohamed and Mnih (2018), arXiv 1805.08498, sections 2 and 3.

    Arguments:
        logits: Log-weights up to a constant, shape ``(*batch, K)``.
        loc: Means, shape ``(*batch, K, z_dim)``.
        scale: Standard deviations, shape ``(*batch, K, z_dim)``.

    Example:
        >>> from pyro_vae.distributions import NormalMixture
        >>> loc = torch.randn(5, 2, requires_grad=True)
        >>> z = NormalMixture(torch.zeros(5), loc, torch.ones(5, 2)).rsample((7,))
        >>> z.shape, z.requires_grad
        (torch.Size([7, 2]), True)
    """

    has_rsample = True

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        # Categorical subtracts the logarithm of a sum, which rounds by the size of the logits.
        greatest = logits.detach().amax(-1, keepdim=True)
        super().__init__(
            dist.Categorical(logits=logits - greatest),
            dist.Normal(loc, scale).to_event(1),
            validate_args=validate_args,
        )
        self._narrow: NormalMixture | None = None  # the mixture that this one was expanded from

    def expand(self, batch_shape: Any, _instance: Any = None) -> "NormalMixture":
        new = super().expand(
            torch.Size(batch_shape), self._get_checked_instance(NormalMixture, _instance)
        )
        new._narrow = self._narrow or self
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        narrow = self._narrow or self
        if narrow.batch_shape:
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        normal = narrow.component_distribution.base_dist
        loc, precision = normal.loc.double(), normal.scale.double().square().reciprocal()
        center = loc.detach().mean(0)  # near zero the terms cancel less
        loc, z = loc - center, value.double() - center
        lost = (loc.square() * precision).detach().amax(-1) > _FARTHEST**2
        if self._validate_args and lost.any():
            k = int(lost.nonzero()[0])
            raise ValueError(
                f"scale: got {normal.scale[k].min():.3g} for component {k}, whose mean is more "
                "than 2^20 of that away from the average of all means, expected a greater scale: "
                "the log-density has no digits in float64"
            )
        constant = (
            -0.5 * (loc.square() * precision - precision.log()).sum(-1)
            - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
            + narrow.mixture_distribution.logits.double()
        ).masked_fill(lost, math.nan)
        joint = (z.square() @ (-0.5 * precision).T) + z @ (loc * precision).T + constant
        log_prob = joint.logsumexp(-1).to(value.dtype)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            normal = self.component_distribution.base_dist
            which = self.mixture_distribution.sample(sample_shape)[..., None, None]
            which = which.expand(*which.shape[:-1], *self.event_shape)
            shape = (*which.shape[:-2], *normal.batch_shape[-2:])
            loc, scale = (
                parameter.expand(shape).gather(-2, which).squeeze(-2)
                for parameter in (normal.loc, normal.scale)
            )
            return torch.normal(loc, scale)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        z = self.sample(sample_shape)
        if not torch.is_grad_enabled():
            return z
        u, du_dz = self._uniform(z)
        # The difference is zero, so the value is z; its gradient is -(du/dz)^-1 du.
        implied = torch.linalg.solve_triangular(du_dz, u.unsqueeze(-1), upper=False).squeeze(-1)
        return z - (implied - implied.detach())

    def _uniform(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u of each coordinate given those before it, and the matrix du/dz, lower triangular.

        u is differentiable with respect to the parameters; the matrix is not.
        """
        normal = self.component_distribution.base_dist
        padded = z.unsqueeze(-2)  # (*batch, 1, z_dim) against (*batch, K, z_dim)
        log_prob, cdf = normal.log_prob(padded), normal.cdf(padded)
        # The weight of each component given the coordinates before.
        before = F.pad(log_prob[..., :-1].cumsum(-1), (1, 0))
        weight = (self.mixture_distribution.logits.unsqueeze(-1) + before).softmax(-2)
        u = (weight * cdf).sum(-2)
        with torch.no_grad():
            slope = (normal.loc - padded) / normal.scale.square()
            changes = (weight * (cdf - u.unsqueeze(-2))).mT @ slope
            density = (weight * log_prob.exp()).sum(-2)
            return u, changes.tril(-1) + torch.diag_embed(density)
