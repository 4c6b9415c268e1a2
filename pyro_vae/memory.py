"""How much memory a computation holds at once, on any device."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that tensors made inside `run` hold at once, in bytes.

    What torch's operations use inside of themselves is not seen, nor is compiled code. The same
    computation gives the same number, whatever else the process does.
    """
    with _Live() as live:
        run()
    return live.peak


class _Live(TorchDispatchMode):
    """Follows the memory of all tensors that operations return, for as long as it is used."""

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
            if storage.cdata not in given:  # no view, nothing written in place
                self._live.setdefault(storage.cdata, (storage, tensor.untyped_storage().nbytes()))
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return made


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())
