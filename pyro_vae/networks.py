"""Networks: a tensor of shape `(*batch, *in_shape)` in, one of `(*batch, *out_shape)` out.

Any number of batch dimensions works, none included. What a part of a VAE needs of a network is
its ``forward`` and its attribute ``out_shape``, so any module with these two serves as one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Integral
from typing import Any, cast

import torch
from torch import Tensor, nn

Shape = int | Sequence[int]
"""The shape of one example without batch dimensions; an int is a vector of that length."""


def as_shape(argument: str, shape: Shape) -> torch.Size:
    """`shape` as a ``torch.Size``; raises unless it is an int or a sequence of ints from 1 up."""
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"{argument}: got {shape!r}, expected whole numbers from 1 up")
    return torch.Size(map(int, sizes))


def check_network(argument: str, network: object) -> None:
    """Raises TypeError unless `network` is a module."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"{argument}: got a {type(network).__name__}, expected a torch.nn.Module")


def split_shape(x: Tensor, in_shape: torch.Size, network: nn.Module) -> torch.Size:
    """The batch dimensions of `x`; raises ValueError unless those behind them are `in_shape`."""
    batch = x.dim() - len(in_shape)
    if batch < 0 or x.shape[batch:] != in_shape:
        raise ValueError(
            f"{type(network).__name__}: got an input of shape {tuple(x.shape)}, "
            f"expected (*batch, {', '.join(map(str, in_shape))})"
        )
    return x.shape[:batch]


def out_shape(network: nn.Module) -> torch.Size:
    """The shape of one output of a network; raises TypeError where it does not say."""
    if not hasattr(network, "out_shape"):
        raise TypeError(
            f"network: got a {type(network).__name__} without an attribute out_shape, expected "
            "the shape of one output, without batch dimensions"
        )
    return torch.Size(cast(Sequence[int], network.out_shape))


@contextmanager
def bfloat16(module: nn.Module) -> Iterator[None]:
    """Computes the networks inside `module` in bfloat16 for a block; what they give is float32.

    Parameters stay float32, and so does all that is made of the numbers: scales, densities,
    losses. Networks are the modules with an ``out_shape``. See ``torch.autocast``.

    Raises:
        ValueError: There is no network inside.
    """
    networks = list(dict.fromkeys(_networks(module)))  # a shared one once
    if not networks:
        raise ValueError(
            "precision: got 'bf16', but no part holds a network, which is a module with an "
            "attribute out_shape"
        )
    own = [(network, vars(network).get("forward")) for network in networks]
    for network in networks:
        network.forward = _in_bfloat16(network.forward)
    try:
        yield
    finally:
        for network, forward in own:
            del network.forward
            if forward is not None:
                network.forward = forward


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that say what shape they give."""
    for child in module.children():
        if hasattr(child, "out_shape"):
            yield child
        else:
            yield from _networks(child)


def _in_bfloat16(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrapped(x: Tensor, *args: Any) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
            return forward(x, *args).float()

    return wrapped


def variance_scaling_(layer: nn.Linear) -> None:
    """Draws weights from a truncated normal of variance ``2 / fan_in``; zero biases.

    The normal is cut at two standard deviations, and widened so that what is left has the stated
    variance. Source: the lecture's ``variance_scaling_initializer``; He et al. (2015), section
    2.2.
    """
    # The standard deviation of a standard normal cut at -2 and 2.
    cut = 0.8796256610342398
    std = math.sqrt(2 / layer.in_features) / cut
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)


def xavier_(layer: nn.Linear) -> None:
    """Draws a layer's weights uniformly, of variance ``2 / (fan_in + fan_out)``; zero biases.

    Source: Glorot and Bengio (2010), equation 16.
    """
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """Fully connected layers with an activation between them, none after the last.

    Arguments:
        in_shape: Shape of one input; it is flattened.
        hidden: Widths of the hidden layers; empty for an affine map.
        out_shape: Shape of one output.
        activation: Makes the module between two layers.
        init: Called on each ``nn.Linear`` to set its weights in place; None leaves torch's own.

    Raises:
        ValueError: A width or size is no whole number from 1 up; in ``forward``, an input whose
            trailing shape is not `in_shape`.
    """

    def __init__(
        self,
        in_shape: Shape,
        hidden: Sequence[int],
        out_shape: Shape,
        activation: Callable[[], nn.Module] = nn.ReLU,
        init: Callable[[nn.Linear], None] | None = None,
    ) -> None:
        super().__init__()
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)
        widths = [self.in_shape.numel(), *as_shape("hidden", hidden), self.out_shape.numel()]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            linear = nn.Linear(fan_in, fan_out)
            if init is not None:
                init(linear)
            layers += [linear, activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        batch = split_shape(x, self.in_shape, self)
        return self.layers(x.reshape(*batch, self.in_shape.numel())).reshape(
            *batch, *self.out_shape
        )


class Scaled(nn.Module):
    """A network behind a fixed factor: levels from 0 to 255 reach it as numbers from 0 to 1.

    Arguments:
        network: Any network.
        factor: What its input is multiplied with.
    """

    def __init__(self, network: nn.Module, factor: float = 1 / 255) -> None:
        super().__init__()
        check_network("network", network)
        number = isinstance(factor, int | float) and not isinstance(factor, bool)
        if not number or not math.isfinite(factor) or not factor:
            raise ValueError(f"factor: got {factor!r}, expected a finite number other than 0")
        self.network = network
        self.factor = factor
        self.out_shape = out_shape(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * self.factor)

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"


class Folded(nn.Module):
    """A network of one batch dimension, for any number of them: they are folded into one and back.

    For networks of one's own whose layers count dimensions: convolutions, batch norm, flattening.

    Arguments:
        network: Maps shape ``(N, *in_shape)`` to ``(N, *out_shape)``.
        in_shape: Shape of one input.
        out_shape: Shape of one output.

    Raises:
        ValueError: A size is no whole number from 1 up; in ``forward``, an input whose trailing
            shape is not `in_shape`, or an output that is not of shape ``(N, *out_shape)``.
    """

    def __init__(self, network: nn.Module, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        check_network("network", network)
        self.network = network
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)

    def forward(self, x: Tensor) -> Tensor:
        batch = split_shape(x, self.in_shape, self)
        out = self.network(x.reshape(-1, *self.in_shape))
        if out.shape[1:] != self.out_shape or len(out) != batch.numel():
            raise ValueError(
                f"network: gave shape {tuple(out.shape)} for {batch.numel()} inputs of shape "
                f"{tuple(self.in_shape)}, expected (N, {', '.join(map(str, self.out_shape))})"
            )
        return out.reshape(*batch, *self.out_shape)

    def extra_repr(self) -> str:
        return f"in_shape={tuple(self.in_shape)}, out_shape={tuple(self.out_shape)}"


class ConvEncoder(nn.Module):
    """Images to numbers: 3 x 3 convolutions that halve height and width, then an affine map.

    Arguments:
        in_shape: ``(height, width)`` or ``(*channels, height, width)``.
        out_shape: Shape of one output.
        channels: Channels after each convolution, each followed by a ReLU.

    Raises:
        ValueError: `in_shape` has fewer than two dimensions, or a size is no whole number from 1
            up; in ``forward``, an input whose trailing shape is not `in_shape`.
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
    """Numbers to images: an affine map, then 3 x 3 transposed convolutions that double the sizes.

    The mirror of :class:`ConvEncoder`, for any height and width.

    Arguments:
        in_shape: Shape of one input; it is flattened.
        out_shape: ``(height, width)`` or ``(*channels, height, width)``.
        channels: Channels before each transposed convolution.

    Raises:
        ValueError: `out_shape` has fewer than two dimensions, or a size is no whole number from 1
            up; in ``forward``, an input whose trailing shape is not `in_shape`.
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
            # An even side is twice the one before it, an odd side one less.
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
    """Channels of the image and its (height, width) at full size and after each halving."""
    if len(shape) < 2:
        raise ValueError(f"{argument}: got {tuple(shape)}, expected (*channels, height, width)")
    if not as_shape("channels", channels):
        raise ValueError("channels: got none, expected at least one")
    sizes = [(shape[-2], shape[-1])]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return math.prod(shape[:-2]), sizes
