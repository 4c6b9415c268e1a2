"""Networks as lists of plain layers, which a page computes from the network's own weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import networks

__all__ = ["Layer", "NotInPage", "computed", "half", "layers_of"]


class NotInPage(Exception):
    """A network, or a likelihood, that a page cannot compute; the message says why."""


@dataclass(frozen=True)
class Layer:
    """One layer: what it does, its sizes, and its weights.

    Attributes:
        kind: ``"linear"``, ``"conv"`` (a transposed convolution), ``"class"`` (appends a one-hot
            class), ``"first"`` (keeps the first numbers), or an activation.
        sizes: Numbers by name.
        weights: The weight and the bias, or nothing.
    """

    kind: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[Tensor, ...] = ()


_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
}
_NOTHING = nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten


def layers_of(network: nn.Module, shape: Sequence[int] = ()) -> list[Layer]:
    """The layers of a decoder's network, in eval mode.

    Arguments:
        network: An ``MLP``, a ``GatedMLP`` or a ``ConvDecoder``, these in ``Conditioned`` by a
            class or in ``Folded``, or an ``nn.Sequential`` of layers that are known.
        shape: The shape of its input, ``(channels, height, width)``, for a convolution.

    Raises:
        NotInPage: A layer is not known.

    Example:
        >>> from pyro_vae.report.layers import layers_of
        >>> [layer.kind for layer in layers_of(networks.MLP(2, (8,), (3, 3)))]
        ['linear', 'relu', 'linear']
    """
    if type(network) in _ACTIVATIONS:
        return [Layer(_ACTIVATIONS[type(network)])]
    if isinstance(network, _NOTHING):
        return []
    for kind, read in _READ.items():
        if type(network) is kind:
            return read(network, tuple(shape))
    raise NotInPage(f"a {type(network).__name__} is no layer that the page knows")


def _linear(layer: nn.Linear, shape: tuple[int, ...]) -> list[Layer]:
    sizes = {"inputs": layer.in_features, "outputs": layer.out_features}
    return [Layer("linear", sizes, _weights(layer))]


def _convolution(layer: nn.ConvTranspose2d, shape: tuple[int, ...]) -> list[Layer]:
    if layer.groups != 1 or layer.dilation != (1, 1) or len(shape) != 3:
        raise NotInPage(
            "it has a transposed convolution with groups, dilation or no image before it"
        )
    sizes = {
        "shape": list(shape),
        "channels": layer.out_channels,
        "kernel": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": [int(p) for p in layer.padding],
        "out": list(_size_after(layer, shape)),
    }
    return [Layer("conv", sizes, _weights(layer))]


def _size_after(layer: nn.ConvTranspose2d, shape: Sequence[int]) -> tuple[int, int]:
    """The height and the width that a transposed convolution gives."""
    height, width = (
        (size - 1) * layer.stride[i]
        - 2 * int(layer.padding[i])
        + layer.kernel_size[i]
        + layer.output_padding[i]
        for i, size in enumerate(shape[1:])
    )
    return height, width


def _weights(layer: nn.Linear | nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    bias = layer.bias
    outputs = layer.weight.new_zeros(
        layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    )
    return layer.weight.detach(), outputs if bias is None else bias.detach()


def _sequence(network: nn.Sequential, shape: tuple[int, ...]) -> list[Layer]:
    layers: list[Layer] = []
    for module in network:
        layers += layers_of(module, shape)
        if isinstance(module, nn.ConvTranspose2d):
            shape = (module.out_channels, *_size_after(module, shape))
    return layers


def _conv_decoder(network: networks.ConvDecoder, shape: tuple[int, ...]) -> list[Layer]:
    return layers_of(network.linear) + layers_of(network.convolutions, network.feature_shape)


def _conditioned(network: networks.Conditioned, shape: tuple[int, ...]) -> list[Layer]:
    if network.classes is None or network.context_shape or network.entry:
        raise NotInPage("its network takes a context other than one class")
    return [Layer("class", {"classes": network.classes}), *layers_of(network.network, shape)]


def _activation(kind: str, *names: str) -> Callable[[Any, tuple[int, ...]], list[Layer]]:
    """Reads an activation with numbers."""
    return lambda layer, shape: [Layer(kind, {name: getattr(layer, name) for name in names})]


_READ: dict[type[nn.Module], Callable[[Any, tuple[int, ...]], list[Layer]]] = {
    nn.Linear: _linear,
    nn.ConvTranspose2d: _convolution,
    nn.Sequential: _sequence,
    nn.LeakyReLU: _activation("leaky", "negative_slope"),
    nn.ELU: _activation("elu", "alpha"),
    nn.Softplus: _activation("softplus", "beta", "threshold"),
    nn.GLU: _activation("glu"),
    networks.MLP: lambda network, shape: layers_of(network.layers),
    networks.GatedMLP: lambda network, shape: layers_of(network.layers),
    networks.ConvDecoder: _conv_decoder,
    networks.Conditioned: _conditioned,
    networks.Folded: lambda network, shape: layers_of(network.network),
}


def half(weight: Tensor) -> Tensor:
    """A weight in float16, as the page has it.

    Raises:
        NotInPage: A number is beyond float16.
    """
    rounded = weight.to(torch.float16)
    if not torch.isfinite(rounded).all():
        raise NotInPage("a weight is beyond the range of float16")
    return rounded


def computed(layers: Sequence[Layer], z: Tensor, y: Tensor | None = None) -> Tensor:
    """What the page computes from its layers, in float32 with weights in float16.

    Arguments:
        layers: The layers.
        z: Inputs of shape ``(N, z_dim)``.
        y: Classes of shape ``(N,)``, for layers that take one.

    Returns:
        Numbers of shape ``(N, outputs)``.

    Example:
        >>> from pyro_vae.report.layers import computed, layers_of
        >>> network = networks.MLP(2, (8,), 5)
        >>> z = torch.randn(7, 2)
        >>> bool((computed(layers_of(network), z) - network(z)).abs().max() < 1e-2)
        True
    """
    h = z.float()
    for layer in layers:
        weights = [half(w).to(h) for w in layer.weights]
        sizes = layer.sizes
        if layer.kind == "linear":
            h = F.linear(h, *weights)
        elif layer.kind == "conv":
            image, (height, width) = h.unflatten(1, sizes["shape"]), sizes["out"]
            padding, kernel, stride = sizes["padding"], sizes["kernel"], sizes["stride"]
            extra = [
                size - ((before - 1) * s - 2 * p + k)
                for size, before, s, p, k in zip(
                    (height, width), sizes["shape"][1:], stride, padding, kernel, strict=True
                )
            ]
            weight, bias = weights
            h = F.conv_transpose2d(image, weight, bias, stride, padding, extra).flatten(1)
        elif layer.kind == "class":
            if y is None:
                raise ValueError(f"y: got None, expected classes below {sizes['classes']}")
            h = torch.cat([h, F.one_hot(y, sizes["classes"]).to(h)], -1)
        elif layer.kind == "first":
            h = h[:, : sizes["count"]]
        else:
            h = _FUNCTIONS[layer.kind](h, **sizes)
    return h


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
    "leaky": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "glu": F.glu,
}
