"""Values of Python's state, compared and put back: numbers, containers, states of generators."""

import random
import weakref
from array import array
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from functools import lru_cache, partial
from types import MappingProxyType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "CACHED",
    "CONTAINERS",
    "NUMBERS",
    "OPAQUE",
    "PLAIN",
    "elements_of",
    "equal",
    "generator_state",
    "is_plain",
    "refill",
    "same",
    "same_elements",
]

NUMBERS = bool, int, float, complex, str, bytes, type(None), np.generic, Enum
"""The types of numbers and strings, which do not change."""
PLAIN = (*NUMBERS, torch.dtype, torch.device, torch.layout, torch.memory_format)
"""The types of all values that do not change."""
CONTAINERS = list, dict, set, frozenset, tuple, deque
"""The types of containers whose elements are compared."""
CACHED: type = type(lru_cache(len))
"""The type of functions with a cache."""
OPAQUE: dict[type, Callable[[Any], Any]] = {
    partial: lambda function: (function.func, function.args, function.keywords),
    MappingProxyType: dict,
    bytearray: bytes,
    memoryview: bytes,
    array: bytes,
    ContextVar: lambda variable: variable.get(None),
    weakref.ReferenceType: lambda reference: reference(),
}
"""Types written in C, with a function that reads what an object of the type has."""


def generator_state(generator: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What reads the state of a random generator, and what sets it."""
    if isinstance(generator, random.Random):
        return generator.getstate, generator.setstate
    if isinstance(generator, torch.Generator):
        return generator.get_state, generator.set_state
    if isinstance(generator, np.random.RandomState):
        return partial(generator.get_state, legacy=False), generator.set_state
    bits = generator.bit_generator
    return lambda: bits.state, partial(setattr, bits, "state")


def elements_of(value: Any) -> list[Any]:
    """The elements of a container; of a dict, its keys and values in turn."""
    if isinstance(value, dict):
        return [each for item in value.items() for each in item]
    return list(value)


def refill(container: Any, elements: list[Any]) -> None:
    """Puts elements back into a container that can be changed."""
    if isinstance(container, dict):
        container.clear()
        container.update(zip(elements[::2], elements[1::2], strict=True))
    elif isinstance(container, list):
        container[:] = elements
    elif isinstance(container, set):
        container.clear()
        container.update(elements)
    elif isinstance(container, deque):
        container.clear()
        container.extend(elements)


def is_plain(value: Any, depth: int = 9) -> bool:
    """Whether a value is a number or a string, or a container of these alone."""
    if isinstance(value, CONTAINERS):
        return depth > 0 and all(is_plain(each, depth - 1) for each in elements_of(value))
    return isinstance(value, PLAIN)


def same(a: Any, b: Any) -> bool:
    """Whether two values of one type are equal numbers or strings, or have equal elements."""
    if type(a) is not type(b):
        return False
    if isinstance(a, CONTAINERS):
        return same_elements(elements_of(a), elements_of(b))
    if isinstance(a, MethodType):
        return a.__self__ is b.__self__ and a.__func__ is b.__func__
    # The repr tells 0.0 from -0.0, and is the same for NaN.
    return isinstance(a, PLAIN) and not isinstance(a, Enum) and repr(a) == repr(b)


def same_elements(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists have elements that are one, or the same."""
    return len(a) == len(b) and all(x is y or same(x, y) for x, y in zip(a, b, strict=True))


def equal(a: Any, b: Any) -> bool:
    """Whether states of generators, arrays, tensors or other values are equal."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return same(a, b)
