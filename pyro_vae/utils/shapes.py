"""Shapes of one example, without batch dimensions."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import cast

import torch
from torch import Tensor, nn

from pyro_vae.utils.checks import kind

__all__ = ["Shape", "as_shape", "event_dim", "out_shape", "split_shape"]

Shape = int | Sequence[int]
"""The shape of one example without batch dimensions; an int is a vector of that length."""


def as_shape(argument: str, shape: Shape) -> torch.Size:
    """`shape` as a ``torch.Size``.

    Arguments:
        argument: Name of the argument, for the error message.
        shape: A positive integer or a sequence of them.

    Raises:
        TypeError: `shape` is a text.
        ValueError: `shape` is neither.

    Example:
        >>> from pyro_vae.utils.shapes import as_shape
        >>> as_shape("in_shape", 784), as_shape("in_shape", (28, 28))
        (torch.Size([784]), torch.Size([28, 28]))
    """
    if isinstance(shape, str | bytes):  # An empty one would be a shape of no dimensions.
        raise TypeError(f"{argument}: got {shape!r}, expected a positive integer or several")
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if not all(isinstance(n, Integral) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"{argument}: got {shape!r}, expected positive integers")
    return torch.Size(map(int, sizes))


def out_shape(network: nn.Module) -> torch.Size:
    """The shape of one output of a network, from its attribute ``out_shape``.

    Raises:
        TypeError: The network has no such attribute.
        ValueError: It is neither a positive integer nor a sequence of them.

    Example:
        >>> from pyro_vae.utils.shapes import out_shape
        >>> out_shape(networks.MLP(20, (500,), (28, 28)))
        torch.Size([28, 28])
    """
    if not hasattr(network, "out_shape"):
        raise TypeError(
            f"network: got {kind(network)} without an attribute out_shape, expected "
            "the shape of one output, without batch dimensions"
        )
    return as_shape("network.out_shape", cast(Shape, network.out_shape))


def event_dim(network: nn.Module, count: int, meaning: str) -> int:
    """The number of dimensions of x, for a network that gives `count` numbers for each pixel.

    Arguments:
        network: A network with ``out_shape`` ``(count, *x_shape)``.
        count: How many numbers.
        meaning: What they are, for the error message.

    Raises:
        ValueError: The network's ``out_shape`` does not start with `count`.

    Example:
        >>> from pyro_vae.utils.shapes import event_dim
        >>> event_dim(networks.MLP(20, (500,), (2, 28, 28)), 2, "a mean and a raw scale")
        2
    """
    shape = out_shape(network)
    if len(shape) < 2 or shape[0] != count:
        raise ValueError(
            f"network: got out_shape {tuple(shape)}, expected ({count}, *x_shape): {meaning} for "
            "each pixel"
        )
    return len(shape) - 1


def split_shape(x: Tensor, in_shape: torch.Size, network: nn.Module) -> torch.Size:
    """The batch dimensions of an input.

    Arguments:
        x: The input, of shape ``(*batch, *in_shape)``.
        in_shape: The shape of one input.
        network: The network that takes it, for the error message.

    Raises:
        ValueError: `x` does not end with `in_shape`.

    Example:
        >>> from pyro_vae.utils.shapes import split_shape
        >>> split_shape(torch.zeros(5, 7, 3), torch.Size((3,)), torch.nn.Identity())
        torch.Size([5, 7])
    """
    batch = x.dim() - len(in_shape)
    if batch < 0 or x.shape[batch:] != in_shape:
        raise ValueError(
            f"{type(network).__name__}: got an input of shape {tuple(x.shape)}, "
            f"expected (*batch, {', '.join(map(str, in_shape))})"
        )
    return x.shape[:batch]
