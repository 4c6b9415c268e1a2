"""Guards of compiled code: the arguments and settings of torch for which it is valid."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.compat import pytree
from pyro_vae.compile.values import is_plain

__all__ = ["ambient", "inputs", "is_input", "layout", "plain", "signature"]


def is_input(leaf: Any) -> bool:
    """Whether an argument is an input of the graph; other arguments are constants."""
    return isinstance(leaf, Tensor | float)


def inputs(args: Any, kwargs: Any) -> list[Tensor]:
    """The inputs of the graph: the tensors and floats among the arguments, as tensors."""
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if is_input(leaf)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) == len(leaves):
        return tensors
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    dtype = torch.float64 if double else torch.get_default_dtype()
    return [
        leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=dtype) for leaf in leaves
    ]


def signature(args: Any, kwargs: Any) -> Any:
    """A description of the arguments without the values of tensors and floats.

    Arguments with different signatures need different code.

    Raises:
        ValueError: An argument requires grad, and gradients are on.
        TypeError: An argument cannot be hashed.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return str(spec), tuple(_argument_signature(leaf) for leaf in leaves)


def _argument_signature(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        if leaf.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"compiled: got an argument of shape {tuple(leaf.shape)} that requires grad, "
                "expected data: only parameters of model and guide get gradients"
            )
        return layout(leaf)
    if isinstance(leaf, float):
        return float
    try:
        hash(leaf)
    except TypeError:
        raise TypeError(
            f"compiled: got an argument of type {type(leaf).__name__}, expected tensors, numbers "
            "and other hashable objects, in tuples, lists and dicts"
        ) from None
    return type(leaf), leaf


def layout(tensor: Tensor) -> Any:
    """A tensor's shape, strides, dtype and device, for which code is compiled."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def plain(owner: Any) -> tuple[tuple[str, Any], ...]:
    """The numbers, strings and tuples of them among an object's attributes.

    They are constants of a trace.
    """
    kinds = int, float, str, type(None)  # A bool is an int.
    return tuple(
        (name, v)
        for name, v in vars(owner).items()
        if isinstance(v, kinds) or (isinstance(v, tuple) and is_plain(v))
    )


def ambient() -> Any:
    """The settings of torch that are constants of a trace, or of the code made of it."""
    autocast = tuple(
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
    )
    return (
        autocast,
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )
