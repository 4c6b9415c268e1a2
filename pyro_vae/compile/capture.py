"""Finds the tensors, module attributes and random numbers that a program reads and writes."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.compat import TorchDispatchMode, WeakIdKeyDictionary, pytree, schema, tables

__all__ = [
    "Attributes",
    "PythonRandomState",
    "RandomState",
    "Substitution",
    "Watch",
    "cuda_devices",
]


class Watch(TorchDispatchMode):
    """Finds the tensors that a program uses and that are neither its arguments nor its results.

    Arguments:
        given: The tensors among the program's arguments.

    Attributes:
        captured: The tensors found, in the order of their first use.
    """

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.captured: dict[Tensor, None] = {}
        self._given = given
        self._known = WeakIdKeyDictionary(dict.fromkeys(given))
        self._before = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        used = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for tensor in used:
            if tensor not in self._known:
                self.captured[tensor] = self._known[tensor] = None
        if schema(func).is_mutable:
            memory = {tensor.untyped_storage().data_ptr() for tensor in used}
            others = *self.captured, *self._given
            self.keep(t for t in others if t.untyped_storage().data_ptr() in memory)
        made = func(*args, **kwargs)
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor not in self._known:
                self._known[tensor] = None
        return made

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Copies the values of tensors that the program may change in place."""
        for tensor in tensors:
            if tensor not in self._before:
                self._before[tensor] = tensor.detach().clone()

    def restore(self) -> None:
        """Restores the values of the tensors that were copied."""
        with torch.no_grad():
            for tensor, value in self._before.items():
                tensor.copy_(value)


class Attributes:
    """The tensors that modules hold as attributes and buffers, to restore them later."""

    def __init__(self) -> None:
        self._tables: dict[int, tuple[str, dict[str, Any], dict[str, Tensor]]] = {}

    def keep(self, module: nn.Module) -> None:
        """Keeps a module's tensors. Later calls for the same module have no effect."""
        _, buffers, _ = tables(module)
        for table in (vars(module), buffers):
            if id(table) not in self._tables:
                held = {name: v for name, v in table.items() if isinstance(v, Tensor)}
                self._tables[id(table)] = type(module).__name__, table, held

    def restore(self) -> str:
        """Restores the tensors that were replaced; returns the name of one, or ``""``."""
        replaced = ""
        for owner, table, held in self._tables.values():
            for name, value in list(table.items()):
                if isinstance(value, Tensor) and held.get(name) is not value:
                    replaced = f"{owner}.{name}"
                    if name in held:
                        table[name] = held[name]
                    else:
                        del table[name]
        return replaced


class Substitution(TorchDispatchMode):
    """Computes with other tensors in place of some, while autograd still sees the originals.

    Arguments:
        others: Maps each original to the tensor that replaces it in the computation.
    """

    def __init__(self, others: dict[Tensor, Tensor]) -> None:
        super().__init__()
        self._others = others
        self._back = {other: tensor for tensor, other in others.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self._swapped(self._others, (args, kwargs or {}))
        return self._swapped(self._back, func(*args, **kwargs))

    @staticmethod
    def _swapped(by: dict[Tensor, Tensor], tree: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda tensor: by.get(tensor, tensor), tree)


class RandomState:
    """The states of torch's global generators on the CPU and on the devices of some tensors.

    Arguments:
        tensors: Tensors on these devices.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {d: torch.cuda.get_rng_state(d) for d in cuda_devices(tensors)}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RandomState)
            and torch.equal(self._cpu, other._cpu)
            and self._cuda.keys() == other._cuda.keys()
            and all(torch.equal(s, other._cuda[d]) for d, s in self._cuda.items())
        )

    def restore(self) -> None:
        """Sets the generators to these states."""
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)


class PythonRandomState:
    """The states of the global generators of Python and NumPy."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()  # noqa: NPY002

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PythonRandomState)
            and self._python == other._python
            and repr(self._numpy[2:]) == repr(other._numpy[2:])
            and np.array_equal(self._numpy[1], other._numpy[1])
        )

    def restore(self) -> None:
        """Sets the generators to these states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002


def cuda_devices(tensors: Iterable[Tensor]) -> list[torch.device]:
    """The CUDA devices of some tensors."""
    return list({tensor.device for tensor in tensors if tensor.is_cuda})
