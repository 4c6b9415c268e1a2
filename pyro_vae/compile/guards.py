"""Guards of compiled code: the arguments, modules and settings of torch for which it is valid."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.compat import pytree, tables

__all__ = ["Modules", "ambient", "inputs", "is_input", "layout", "plain", "signature"]


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
        ValueError: An argument requires grad.
        TypeError: An argument cannot be hashed.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return str(spec), tuple(_argument_signature(leaf) for leaf in leaves)


def _argument_signature(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        if leaf.requires_grad:
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
    """The numbers and strings among an object's attributes, which are constants of a trace."""
    kinds = int, float, str, type(None)  # A bool is an int.
    return tuple((name, v) for name, v in vars(owner).items() if isinstance(v, kinds))


def ambient() -> Any:
    """The settings of torch that are constants of a trace: autocast and the default dtype."""
    autocast = tuple(
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
    )
    return autocast, torch.get_default_dtype()


class Modules:
    """The structure of modules, and a fast check, at each step, whether it has changed.

    Arguments:
        modules: The modules, whose submodules are included.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        every = dict.fromkeys(m for module in modules for m in module.modules())
        held = [table for module in every for table in tables(module)]
        self._sizes = [(table, len(table)) for table in held]
        self._held = [(table, *item) for table in held for item in table.items()]
        self._trained = [(p, p.requires_grad) for m in every for p in m.parameters(False)]
        # The mode is among them: ``training`` is a bool, and so an int.
        self._plain = [(vars(m), *item) for m in every for item in plain(m)]
        self._sets = [
            (vars(m), name, v)
            for m in every
            for name, v in vars(m).items()
            if isinstance(v, Tensor)
        ]

    def hold(self) -> bool:
        """Whether each module still has the same submodules, parameters, mode and numbers."""
        for table, size in self._sizes:
            if len(table) != size:
                return False
        for table, name, held in self._held:
            if table.get(name, self) is not held:
                return False
        for table, name, held in self._sets:
            if table.get(name) is not held:
                return False
        for table, name, value in self._plain:
            if table.get(name, self) != value:
                return False
        return all(p.requires_grad is trained for p, trained in self._trained)
