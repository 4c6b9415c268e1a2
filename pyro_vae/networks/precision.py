"""Networks in bfloat16, with all else in float32."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.utils.checks import check_module

__all__ = ["bfloat16"]


@contextmanager
def bfloat16(module: nn.Module) -> Iterator[None]:
    """A context in which the networks of `module` compute in bfloat16 and return float32.

    Networks are the modules with an attribute ``out_shape``. Their parameters stay float32, as do
    scales, densities and losses. See ``torch.autocast``.

    Arguments:
        module: A VAE, or any module that holds networks.

    Raises:
        TypeError: `module` is not a module.
        ValueError: `module` holds no network.

    Example:
        >>> vae = presets.build("pyro-mlp", shape=(28, 28))
        >>> with networks.bfloat16(vae):
        ...     vae.decode(torch.zeros(7, 50)).dtype
        torch.float32
    """
    check_module("module", module)
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
    @functools.wraps(forward)  # whose signature says whether it takes a context
    def wrapped(x: Tensor, *args: Any) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, cache_enabled=False):
            return forward(x, *args).float()

    return wrapped
