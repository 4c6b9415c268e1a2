"""Fully connected networks, and how their layers start."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.utils.checks import kind
from pyro_vae.utils.shapes import Shape, as_shape, split_shape

__all__ = ["MLP", "variance_scaling_", "xavier_"]


def variance_scaling_(layer: nn.Linear) -> None:
    """Draws the weight matrix from a truncated normal of variance ``2 / fan_in``; biases are 0.

    The normal is cut at two standard deviations; its scale is chosen so that the truncated normal
    has that variance.

    Source: the lecture's ``variance_scaling_initializer``; He et al. (2015), section 2.2.

    Arguments:
        layer: The layer, changed in place.

    Raises:
        TypeError: `layer` is not an ``nn.Linear``.

    Example:
        >>> layer = torch.nn.Linear(784, 500)
        >>> networks.variance_scaling_(layer)
        >>> bool(layer.weight.abs().max() < 3 * (2 / 784) ** 0.5)
        True
    """
    _check_layer(layer)
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

    Raises:
        TypeError: `layer` is not an ``nn.Linear``.

    Example:
        >>> layer = torch.nn.Linear(784, 500)
        >>> networks.xavier_(layer)
        >>> bool(layer.weight.abs().max() <= (6 / (784 + 500)) ** 0.5)
        True
    """
    _check_layer(layer)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


def _check_layer(layer: nn.Linear) -> None:
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"layer: got {kind(layer)}, expected a torch.nn.Linear")


def made(fan_in: int, fan_out: int, init: Callable[[nn.Linear], None] | None = None) -> nn.Linear:
    """A fully connected layer, initialized by `init`; raises TypeError if it is no function."""
    if init is not None and not callable(init):
        raise TypeError(f"init: got {kind(init)}, expected a function of an nn.Linear, or None")
    linear = nn.Linear(fan_in, fan_out)
    if init is not None:
        init(linear)
    return linear


def activated(activation: Callable[[], nn.Module]) -> nn.Module:
    """An activation; raises TypeError unless the function makes a module."""
    if not callable(activation):
        raise TypeError(f"activation: got {kind(activation)}, expected a function to a module")
    between = activation()
    if not isinstance(between, nn.Module):
        raise TypeError(f"activation: made {kind(between)}, expected a torch.nn.Module")
    return between


class MLP(nn.Module):
    """Fully connected layers with an activation after each but the last.

    Arguments:
        in_shape: Shape of one input, which is flattened.
        hidden: Widths of the hidden layers; empty for an affine map.
        out_shape: Shape of one output.
        activation: Called without arguments, returns the module between two layers.
        init: Called on each ``nn.Linear`` to initialize it in place; None leaves torch's default.

    Raises:
        TypeError: `activation` or `init` is not a function, or `activation` makes no module.
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
            layers += [made(fan_in, fan_out, init), activated(activation)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        batch = split_shape(x, self.in_shape, self)
        return self.layers(x.reshape(*batch, self.in_shape.numel())).reshape(
            *batch, *self.out_shape
        )
