"""Posteriors q(z|x): modules whose ``forward(x)`` returns a distribution over z.

For x of shape ``(*batch, *x_shape)`` it has ``batch_shape batch`` and ``event_shape (z_dim,)``.
Any module with such a ``forward`` serves.
"""

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor, nn

SCALE_FLOOR = 1e-4
"""Least scale of a posterior.

Below it, float32 cannot tell a draw near 1 from the mean well enough to score it.
"""


class Normal(nn.Module):
    r"""A normal with diagonal covariance, :math:`q(z|x) = \mathcal{N}(z; \mu, diag(\sigma^2))`.

    The network gives means and raw scales: :math:`\mu_j = f_j(x)`,
    :math:`\sigma_j = \mathrm{softplus}(f_{J+j}(x)) + 10^{-4}`.

    Source: Kingma and Welling (2014), section 3 and appendix C.2.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to shape ``(*batch, 2 * z_dim)``.

    Raises:
        ValueError: In ``forward``, the network gives an odd number of numbers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dist.Distribution:
        numbers = self.network(x)
        if numbers.shape[-1] % 2:
            raise ValueError(
                f"network: gave {numbers.shape[-1]} numbers, expected 2 * z_dim: a mean and a raw "
                "scale for each latent dimension"
            )
        loc, raw_scale = numbers.chunk(2, dim=-1)
        return dist.Normal(loc, F.softplus(raw_scale) + SCALE_FLOOR).to_event(1)
