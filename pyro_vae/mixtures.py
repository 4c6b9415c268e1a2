"""Mixtures: of any distributions, and of diagonal normals, which score and differentiate fast."""

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor


class Mixture(dist.MixtureSameFamily):
    r"""A mixture, :math:`\sum_k w_k\, p_k(z)`, on the support of its components.

    torch's own has a support that samplers cannot transform to (NUTS).

    Arguments:
        mixture_distribution: ``Categorical`` of the weights, batch shape `batch`, K components.
        component_distribution: The components, batch shape ``(*batch, K)``.
    """

    @property
    def support(self) -> constraints.Constraint:
        return self.component_distribution.support


class NormalMixture(Mixture):
    r"""A mixture of diagonal normals, :math:`\sum_k w_k \mathcal{N}(z; \mu_k, diag(\sigma_k^2))`.

    Without batch dimensions it scores by matrix products, since each component's log-density is
    linear in :math:`(z^2, z, 1)`: in float64, as the three terms cancel. Draws are reparameterized
    implicitly: with :math:`u_d = F(z_d | z_{<d})`, which is uniform whatever the parameters,

    .. math:: \frac{dz}{d\theta} =
        -\Big(\frac{\partial u}{\partial z}\Big)^{-1} \frac{\partial u}{\partial \theta}

    Source: Figurnov, Mohamed and Mnih (2018), arXiv 1805.08498, sections 2 and 3.

    Arguments:
        logits: Log-weights up to a constant, shape ``(*batch, K)``.
        loc: Means, shape ``(*batch, K, z_dim)``.
        scale: Standard deviations, shape ``(*batch, K, z_dim)``.
    """

    has_rsample = True

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        super().__init__(
            dist.Categorical(logits=logits),
            dist.Normal(loc, scale).to_event(1),
            validate_args=validate_args,
        )
        self._narrow: NormalMixture | None = None  # what this was expanded from

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
        center = loc.detach().mean(0)  # the less the terms cancel, the nearer all is to zero
        loc, z = loc - center, value.double() - center
        constant = (
            -0.5 * (loc.square() * precision - precision.log()).sum(-1)
            - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
            + narrow.mixture_distribution.logits.double()
        )
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
        # The value is z; of the difference, which is zero, comes the gradient -(du/dz)^-1 du.
        implied = torch.linalg.solve_triangular(du_dz, u.unsqueeze(-1), upper=False).squeeze(-1)
        return z - (implied - implied.detach())

    def _uniform(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Each coordinate's distribution function given those before it, and its derivatives.

        The former is differentiable by the parameters, the latter, lower triangular, are numbers.
        """
        normal = self.component_distribution.base_dist
        padded = z.unsqueeze(-2)  # (*batch, 1, z_dim), beside (*batch, K, z_dim)
        log_prob, cdf = normal.log_prob(padded), normal.cdf(padded)
        # Each component's weight once the coordinates before are known.
        before = F.pad(log_prob[..., :-1].cumsum(-1), (1, 0))
        weight = (self.mixture_distribution.logits.unsqueeze(-1) + before).softmax(-2)
        u = (weight * cdf).sum(-2)
        with torch.no_grad():
            slope = (normal.loc - padded) / normal.scale.square()
            changes = (weight * (cdf - u.unsqueeze(-2))).mT @ slope
            density = (weight * log_prob.exp()).sum(-2)
            return u, changes.tril(-1) + torch.diag_embed(density)
