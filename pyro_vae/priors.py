"""Priors p(z): modules whose ``forward()`` returns a distribution over z.

It has ``batch_shape ()`` and ``event_shape (z_dim,)``. Any module with such a ``forward`` serves.
"""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments import check_count


class StandardNormal(nn.Module):
    r"""The standard normal, :math:`p(z) = \prod_j \mathcal{N}(z_j; 0, 1)`.

    Source: Kingma and Welling (2014), section 3.

    Arguments:
        z_dim: Number of latent dimensions.

    Raises:
        ValueError: `z_dim` is no whole number from 1 up.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        check_count("z_dim", z_dim)
        # Constants of the class, not state to be saved: they only follow device and dtype.
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)
        self.register_buffer("scale", torch.ones(z_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.loc, self.scale).to_event(1)

    def extra_repr(self) -> str:
        return f"z_dim={len(self.loc)}"
