"""Nested states, such as an optimizer's, as values of JSON and tensors by name."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.utils.checks import kind
from pyro_vae.utils.sealed import place_of

__all__ = ["Tensors", "pack", "unpack"]

# Values that JSON lacks are a dict with one of these keys.
_TENSOR, _ARRAY, _TUPLE, _DICT, _COUNTER = "tensor", "array", "tuple", "dict", "counter"


class Tensors(dict[str, Tensor]):
    """Tensors by name, of which those that are one are kept once."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[object, str] = {}

    def put(self, name: str, tensor: Tensor) -> str:
        """Adds a tensor; returns its name, or that under which it is there already."""
        place = place_of(tensor) if tensor.numel() else None
        if place in self._names:
            return self._names[place]
        while name in self:  # The keys "a.b" and "a", "b" have one name.
            name += "'"
        self[name] = tensor
        if place is not None:
            self._names[place] = name
        return name


def pack(value: Any, name: str, tensors: Tensors) -> Any:
    """A value as one of JSON, which :func:`unpack` turns back.

    It may be made of numbers, strings, None, tensors, NumPy arrays, lists, tuples, dicts whose
    keys are numbers or strings, and counters.

    Arguments:
        value: The value.
        name: Its name, with which names of tensors and messages begin.
        tensors: Receives the tensors.

    Raises:
        TypeError: The value holds something else.

    Example:
        >>> from pyro_vae.utils.packed import Tensors, pack, unpack
        >>> tensors = Tensors()
        >>> packed = pack({"rates": (0.1, 0.2), 3: torch.ones(2)}, "state", tensors)
        >>> list(tensors), unpack(packed, tensors)["rates"]
        (['state.3'], (0.1, 0.2))
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return {_TENSOR: tensors.put(name, value.detach())}
    if isinstance(value, np.ndarray):
        return {_ARRAY: tensors.put(name, torch.from_numpy(value.copy()))}
    if isinstance(value, list | tuple):
        items = [pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, int | float | str):
                raise TypeError(f"{name}: got {kind(key)} as a key, expected numbers or strings")
        items = [[key, pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {_COUNTER if isinstance(value, Counter) else _DICT: items}
    raise TypeError(
        f"{name}: got {kind(value)}, expected tensors, numbers, strings, None, and lists, tuples "
        "and dicts of them"
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that :func:`pack` turned into one of JSON.

    Arguments:
        value: What it returned.
        tensors: The tensors that it has put aside.
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((what, content),) = value.items()
    if what == _TENSOR:
        return tensors[content]
    if what == _ARRAY:
        return tensors[content].numpy().copy()
    if what == _TUPLE:
        return tuple(unpack(item, tensors) for item in content)
    pairs = {key: unpack(item, tensors) for key, item in content}
    return Counter(pairs) if what == _COUNTER else pairs
