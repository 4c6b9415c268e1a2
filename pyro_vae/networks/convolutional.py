"""Convolutional networks: from images to numbers, and back."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.utils.shapes import Shape, as_shape, split_shape

__all__ = ["ConvDecoder", "ConvEncoder"]


class ConvEncoder(nn.Module):
    """From images to numbers: 3 x 3 convolutions that halve height and width, then an affine map.

    Arguments:
        in_shape: ``(height, width)`` or ``(*channels, height, width)``.
        out_shape: Shape of one output.
        channels: Number of channels after each convolution, which a ReLU follows.

    Raises:
        ValueError: `in_shape` has fewer than two dimensions, `channels` is empty, or a size is not
            a positive integer; in ``forward``, the input's shape does not end with `in_shape`.

    Example:
        >>> network = networks.ConvEncoder((3, 32, 32), out_shape=40)
        >>> network(torch.rand(7, 3, 32, 32)).shape
        torch.Size([7, 40])
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, channels: Sequence[int] = (32, 64)
    ) -> None:
        super().__init__()
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)
        first, sizes = _pyramid("in_shape", self.in_shape, channels)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((first, *channels)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.ReLU()]
        self.image_shape = (first, *sizes[0])
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(channels[-1] * math.prod(sizes[-1]), self.out_shape.numel())

    def forward(self, x: Tensor) -> Tensor:
        batch = split_shape(x, self.in_shape, self)
        features = self.convolutions(x.reshape(batch.numel(), *self.image_shape))
        return self.linear(features.flatten(1)).reshape(*batch, *self.out_shape)


class ConvDecoder(nn.Module):
    """From numbers to images: an affine map, then 3 x 3 transposed convolutions of stride 2.

    The mirror of :class:`ConvEncoder`: each convolution doubles height and width. Any height and
    width work.

    Arguments:
        in_shape: Shape of one input, which is flattened.
        out_shape: ``(height, width)`` or ``(*channels, height, width)``.
        channels: Number of channels before each transposed convolution.

    Raises:
        ValueError: `out_shape` has fewer than two dimensions, `channels` is empty, or a size is
            not a positive integer; in ``forward``, the input's shape does not end with `in_shape`.

    Example:
        >>> network = networks.ConvDecoder(20, out_shape=(3, 32, 32))
        >>> network(torch.randn(7, 20)).shape
        torch.Size([7, 3, 32, 32])
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, channels: Sequence[int] = (64, 32)
    ) -> None:
        super().__init__()
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)
        last, sizes = _pyramid("out_shape", self.out_shape, channels)
        self.feature_shape = (channels[0], *sizes[-1])
        self.linear = nn.Linear(self.in_shape.numel(), math.prod(self.feature_shape))
        layers: list[nn.Module] = []
        for step, (fan_in, fan_out) in enumerate(pairwise((*channels, last)), start=1):
            # An even side is twice the side before, an odd side is one less.
            height, width = sizes[-1 - step]
            padding = ((height + 1) % 2, (width + 1) % 2)
            layers += [
                nn.ReLU(),
                nn.ConvTranspose2d(fan_in, fan_out, 3, 2, padding=1, output_padding=padding),
            ]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        batch = split_shape(z, self.in_shape, self)
        features = self.linear(z.reshape(batch.numel(), self.in_shape.numel()))
        images = self.convolutions(features.reshape(batch.numel(), *self.feature_shape))
        return images.reshape(*batch, *self.out_shape)


def _pyramid(
    argument: str, shape: torch.Size, channels: Sequence[int]
) -> tuple[int, list[tuple[int, int]]]:
    """The image's channels, and its (height, width) at full size and after each halving."""
    if len(shape) < 2:
        raise ValueError(f"{argument}: got {tuple(shape)}, expected (*channels, height, width)")
    if not as_shape("channels", channels):
        raise ValueError("channels: got none, expected at least one")
    sizes = [(shape[-2], shape[-1])]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return math.prod(shape[:-2]), sizes
