"""The logits of a mask that depends on the value that it hides."""

import torch
from torch import Tensor, nn

from pyro_vae.utils.shapes import Shape, as_shape, split_shape

__all__ = ["SelfMasking"]


class SelfMasking(nn.Module):
    r"""Logits of "x is observed", affine in each element, :math:`a_d - w_d x_d`.

    In ``likelihoods.Bernoulli`` it is a part `missing` of a
    :class:`~pyro_vae.models.NotMissingAtRandom`: each element is missing with a probability that
    its own value decides. An untrained one does not look at the value.

    Source: Ipsen, Mattei and Frellsen (2021), arXiv 2006.12871, section 5 (self-masking).

    Arguments:
        shape: Shape of one x.

    Raises:
        ValueError: A size is not a positive integer; in ``forward``, the input's shape does not
            end with `shape`.

    Example:
        >>> missing = likelihoods.Bernoulli(networks.SelfMasking(5))
        >>> missing(torch.randn(7, 5)).event_shape
        torch.Size([5])
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.in_shape = self.out_shape = as_shape("shape", shape)
        self.weight = nn.Parameter(torch.zeros(self.in_shape))
        self.bias = nn.Parameter(torch.zeros(self.in_shape))

    def forward(self, x: Tensor) -> Tensor:
        split_shape(x, self.in_shape, self)
        return self.bias - self.weight * x
