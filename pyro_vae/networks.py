"""Networks: modules from shape ``(*batch, *in_shape)`` to shape ``(*batch, *out_shape)``.

Any number of batch dimensions works, including none. A part of a VAE uses the ``forward`` of a
network and its attribute ``out_shape``, so any module with these two can take its place.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.utils.checks import check_module
from pyro_vae.utils.shapes import Shape, as_shape, out_shape

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "Folded",
    "Scaled",
    "Shape",
    "bfloat16",
    "variance_scaling_",
    "xavier_",
]


def __dir__() -> list[str]:
    return __all__


@contextmanager
def bfloat16(module: nn.Module) -> Iterator[None]:
    """A context in which the networks of `module` compute in bfloat16 and return float32.

    Networks are the modules with an attribute ``out_shape``. Their parameters stay float32, as do
    scales, densities and losses. See ``torch.autocast``.

    Arguments:
        module: A VAE, or any module that holds networks.

    Raises:
        ValueError: `module` holds no network.

    Example:
        >>> vae = presets.build("pyro-mlp", shape=(28, 28))
        >>> with networks.bfloat16(vae):
        ...     vae.decode(torch.zeros(7, 50)).dtype
        torch.float32
    """
    networks = list(dict.fromkeys(_networks(module)))  # each once, though parts may share it
    if not networks:
        raise ValueError(
            "precision: got 'bf16', but no part holds a network; expected a module with an "
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
    """The outermost modules inside of `module` that have an ``out_shape``."""
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
    """Draws the weight matrix from a truncated normal of variance ``2 / fan_in``; biases are 0.

    The normal is cut at two standard deviations; its scale is chosen so that the truncated normal
    has that variance.

    Source: the lecture's ``variance_scaling_initializer``; He et al. (2015), section 2.2.

    Arguments:
        layer: The layer, changed in place.

    Example:
        >>> layer = torch.nn.Linear(784, 500)
        >>> networks.variance_scaling_(layer)
        >>> bool(layer.weight.abs().max() < 3 * (2 / 784) ** 0.5)
        True
    """
    # The standard deviation of a standard normal truncated to [-2, 2].
    cut = 0.8796256610342398
    std = math.sqrt(2 / layer.in_features) / cut
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)


def xavier_(layer: nn.Linear) -> None:
    """Draws the weight matrix from a uniform of variance ``2 / (fan_in + fan_out)``; biases are 0.

    Source: Glorot and Bengio (2010), equation 16.

    Arguments:
        layer: The layer, changed in place.

    Example:
        >>> layer = torch.nn.Linear(784, 500)
        >>> networks.xavier_(layer)
        >>> bool(layer.weight.abs().max() <= (6 / (784 + 500)) ** 0.5)
        True
    """
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """Fully connected layers with an activation after each but the last.

    Arguments:
        in_shape: Shape of one input, which is flattened.
        hidden: Widths of the hidden layers; empty for an affine map.
        out_shape: Shape of one output.
        activation: Called without arguments, returns the module between two layers.
        init: Called on each ``nn.Linear`` to initialize it in place; None leaves torch's default.

    Raises:
        ValueError: A width or size is not a positive integer; in ``forward``, the input's shape
            does not end with `in_shape`.

    Example:
        >>> network = networks.MLP((28, 28), hidden=(500, 500), out_shape=40)
        >>> network(torch.rand(7, 28, 28)).shape
        torch.Size([7, 40])
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
        batch = _split_shape(x, self.in_shape, self)
        return self.layers(x.reshape(*batch, self.in_shape.numel())).reshape(
            *batch, *self.out_shape
        )


class Scaled(nn.Module):
    """A network whose input is multiplied by a fixed factor: levels 0 to 255 become 0 to 1.

    Arguments:
        network: A network with an ``out_shape``.
        factor: The factor, a finite number other than 0.

    Raises:
        TypeError: `network` is not a module, or has no ``out_shape``.
        ValueError: `factor` is not such a number.

    Example:
        >>> network = networks.Scaled(networks.MLP(784, (500,), 40))
        >>> network(torch.randint(256, (7, 784)).float()).shape
        torch.Size([7, 40])
    """

    def __init__(self, network: nn.Module, factor: float = 1 / 255) -> None:
        super().__init__()
        check_module("network", network)
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
    """A network for one batch dimension, made to accept any number of them.

    All batch dimensions are flattened into one and restored afterwards. Use it for your own
    networks of layers that expect one batch dimension: convolutions, batch norm, ``nn.Flatten``.

    Arguments:
        network: Maps shape ``(N, *in_shape)`` to ``(N, *out_shape)``.
        in_shape: Shape of one input.
        out_shape: Shape of one output.

    Raises:
        TypeError: `network` is not a module.
        ValueError: A size is not a positive integer; in ``forward``, the input's shape does not
            end with `in_shape`, or the output's shape is not ``(N, *out_shape)``.

    Example:
        >>> layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 40))
        >>> network = networks.Folded(layers, in_shape=(28, 28), out_shape=40)
        >>> network(torch.rand(5, 7, 28, 28)).shape
        torch.Size([5, 7, 40])
    """

    def __init__(self, network: nn.Module, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        check_module("network", network)
        self.network = network
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)

    def forward(self, x: Tensor) -> Tensor:
        batch = _split_shape(x, self.in_shape, self)
        out = self.network(x.reshape(-1, *self.in_shape))
        if out.shape[1:] != self.out_shape or len(out) != batch.numel():
            raise ValueError(
                f"network: returned shape {tuple(out.shape)} for {batch.numel()} inputs of shape "
                f"{tuple(self.in_shape)}, expected (N, {', '.join(map(str, self.out_shape))})"
            )
        return out.reshape(*batch, *self.out_shape)

    def extra_repr(self) -> str:
        return f"in_shape={tuple(self.in_shape)}, out_shape={tuple(self.out_shape)}"


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
        batch = _split_shape(x, self.in_shape, self)
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
        batch = _split_shape(z, self.in_shape, self)
        features = self.linear(z.reshape(batch.numel(), self.in_shape.numel()))
        images = self.convolutions(features.reshape(batch.numel(), *self.feature_shape))
        return images.reshape(*batch, *self.out_shape)


def _split_shape(x: Tensor, in_shape: torch.Size, network: nn.Module) -> torch.Size:
    """The batch dimensions of `x`; raises ValueError unless `in_shape` follows them."""
    batch = x.dim() - len(in_shape)
    if batch < 0 or x.shape[batch:] != in_shape:
        raise ValueError(
            f"{type(network).__name__}: got an input of shape {tuple(x.shape)}, "
            f"expected (*batch, {', '.join(map(str, in_shape))})"
        )
    return x.shape[:batch]


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
