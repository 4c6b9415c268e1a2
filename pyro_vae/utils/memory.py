"""The peak memory of a computation, on any device."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_vae.compat import StorageWeakRef, TorchDispatchMode, pytree

__all__ = ["peak_bytes"]


def peak_bytes(run: Callable[[], object]) -> int:
    """The largest number of bytes that tensors made by `run` hold at the same time.

    The same computation gives the same number, whatever else the process does. Scratch memory
    inside of torch's operations, and compiled code, are not counted.

    Arguments:
        run: Called once, without arguments.

    Example:
        >>> from pyro_vae.utils.memory import peak_bytes
        >>> peak_bytes(lambda: torch.zeros(1000) + 1)  # two tensors of 1000 float32 numbers
        8000
    """
    with _Live() as live:
        run()
    return live.peak


class _Live(TorchDispatchMode):
    """Follows the memory of the tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(tensor).cdata for tensor in _tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        self._live = {key: held for key, held in self._live.items() if not held[0].expired()}
        for tensor in _tensors(made):
            storage = _storage(tensor)
            if storage.cdata not in given:  # neither a view nor written in place
                self._live.setdefault(storage.cdata, (storage, tensor.untyped_storage().nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return made


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())
