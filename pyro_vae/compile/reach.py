"""The Python state that a program can read, apart from tensors' values, and its changes."""

import builtins
import os
import random
import threading
import weakref
from argparse import Namespace
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from pyro.nn import PyroSample
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_vae.compat import global_hooks, module_hooks, tables, tensor_hooks
from pyro_vae.compile.calls import ALL, ENVIRONMENT, Calls, content, in_library, names_in
from pyro_vae.compile.values import (
    CACHED,
    CONTAINERS,
    NUMBERS,
    OPAQUE,
    PLAIN,
    elements_of,
    equal,
    generator_state,
    is_plain,
    refill,
    same,
    same_elements,
)

__all__ = ["Reach", "Unseen"]

_OPEN = SimpleNamespace, Namespace, Messenger, Distribution, PyroSample, Transform
_FOLLOWED = Tensor, FunctionType, MethodType, nn.Module, *_OPEN
_ARRAY = 10**6  # the most numbers of an array
_MOST = 10**4  # the most objects
_DEEPEST = 150  # objects within one another
_MISSING = object()


class Unseen(Exception):
    """A program reads something whose changes cannot be seen. The text names it."""


class Reach:
    """What a program can read besides its arguments and tensors, as it is at one moment.

    It starts from some objects and from the functions that ran, and follows attributes,
    containers, closures and global variables: those that the functions name. The state of a
    library's object is its numbers, strings, functions and modules.

    Arguments:
        roots: Objects that belong to the program: modules, functions, methods.
        calls: The functions that ran. None takes all names, and follows what it can.

    Raises:
        Unseen: With `calls`: something in reach has hooks, is an iterator or a module of
            ``torch.jit``, or is too large to be compared.
    """

    def __init__(self, roots: Iterable[object], calls: Calls | None = None) -> None:
        self._calls = calls
        # Each has the path of what it is at its end, for the message.
        self._sizes: list[tuple[Mapping[Any, Any], int, str]] = []
        self._entries: list[tuple[Mapping[Any, Any], Any, Any, str]] = []
        self._containers: list[tuple[Any, list[Any], str]] = []
        self._tensors: list[tuple[Tensor, bool, torch.Size, str]] = []
        self._kinds: list[tuple[object, type, str]] = []
        self._others: list[tuple[Callable[[], Any], Any, Callable[[Any], Any] | None, str]] = []
        self._iterators: list[str] = []
        self._named: set[str] = set()  # in the code of functions, if it is not known which ran
        self._seen: dict[int, object] = {}
        self._depth = 0
        self._sizes += [(table, 0, "a hook of all modules") for table in global_hooks()]
        for root in roots:
            self._walk(root, type(root).__name__)
        if calls is not None:
            if any(map(len, global_hooks())):
                raise Unseen("a hook of all modules")
            for function in calls.functions():
                self._walk(function, function.__qualname__)
            for space, names in calls.variables():
                self._variables(space, names)
        self._seen.clear()
        self._calls = None  # It has the values of closures.

    def iterators(self) -> list[str]:
        """The iterators that the functions in reach name."""
        found = [(path, path.rpartition(".")[2].partition("[")[0]) for path in self._iterators]
        return [f"{path}, an iterator" for path, name in found if name in self._named]

    def changed(self) -> str:
        """The path of something that has changed, or ``""``."""
        try:
            return self._changed()
        except Exception as error:  # by an object's own methods, as those of a dict's subclass
            return f"objects that cannot be compared ({type(error).__name__}: {error})"

    def _changed(self) -> str:
        for table, size, path in self._sizes:  # This runs at each step.
            if len(table) != size:
                return path
        for table, key, before, path in self._entries:
            value = table.get(key, _MISSING)
            if value is not before and not same(value, before):
                return path
        for container, elements, path in self._containers:
            if not same_elements(elements_of(container), elements):
                return path
        for owner, kind, path in self._kinds:
            if type(owner) is not kind:
                return path
        for tensor, trained, shape, path in self._tensors:
            if tensor.requires_grad is not trained or tensor.shape != shape:
                return path
            if trained and tensor_hooks(tensor):
                return path
        for read, before, _, path in self._others:
            if not equal(read(), before):
                return path
        return ""

    def restore(self) -> None:
        """Puts back what has changed, but for what is new."""
        for table, key, before, _ in self._entries:
            if isinstance(table, dict) and table.get(key, before) is not before:
                if before is _MISSING:
                    del table[key]
                else:
                    table[key] = before
        for container, elements, _ in self._containers:
            if not same_elements(elements_of(container), elements):
                refill(container, elements)
        for read, before, write, _ in self._others:
            if write is not None and not equal(read(), before):
                write(before)

    # Following what is there.

    def _walk(self, value: Any, path: str) -> None:
        if isinstance(value, PLAIN) or id(value) in self._seen:
            return
        if len(self._seen) > _MOST:
            self._refuse(f"{path}, which has more than {_MOST:,} objects behind it")
            return
        self._seen[id(value)] = value
        kinds: list[tuple[Any, Callable[[Any, str], None]]] = [
            (Tensor, self._tensor),
            (nn.Module, self._module),
            (CONTAINERS, self._container),
            (FunctionType, self._function),
            (MethodType, self._method),
            (BuiltinMethodType, self._builtin),
            (CACHED, self._cached),
            (tuple(OPAQUE), self._opaque),
            (threading.local, self._thread_local),
            (CellType, self._cell),
            (ModuleType, self._python_module),
            (type, self._class),
            (np.ndarray, self._array),
            ((random.Random, np.random.Generator, np.random.RandomState), self._generator),
            (torch.Generator, self._generator),
            (object, self._object),
        ]
        if self._depth > _DEEPEST:  # Python's own limit would be met in a finalizer too.
            self._refuse(f"{path}, which is nested more than {_DEEPEST} deep")
            return
        self._depth += 1
        next(follow for kind, follow in kinds if isinstance(value, kind))(value, path)
        self._depth -= 1

    def _refuse(self, what: str) -> None:
        if self._calls is not None:
            raise Unseen(what)

    def _attributes_of(self, owner: Any) -> Container[object]:
        return ALL if self._calls is None else self._calls.attributes(owner)

    def _tensor(self, value: Tensor, path: str) -> None:
        if tensor_hooks(value):
            self._refuse(f"{path}, a tensor with hooks")
        self._tensors.append((value, value.requires_grad, value.shape, path))
        own, names = vars(value), self._attributes_of(object)
        self._entries_of(own, [n for n in own if n in names and n != _OF_PYRO], path)
        self._absent(own, {n for n in self._asked_for() if not hasattr(type(value), n)}, path)

    def _module(self, module: nn.Module, path: str) -> None:
        if isinstance(module, torch.jit.ScriptModule):  # Its tables are no dicts.
            self._refuse(f"{path}, a module of torch.jit")
            return
        for hooks in module_hooks(module):
            self._sizes.append((hooks, len(hooks), f"a hook of {path}"))
            for hook in hooks.values():
                self._refuse(f"a hook of {path}")
                self._walk(hook, f"a hook of {path}")
        for table in tables(module):
            self._sizes.append((table, len(table), path))
            self._entries_of(table, list(table), path)
        self._object(module, path)

    def _object(self, value: Any, path: str) -> None:
        """An object's attributes, as far as the program reads them, and its class."""
        if isinstance(value, Iterator) and not isinstance(value, weakref.ProxyTypes):
            self._refuse(f"{path}, an iterator")
            self._iterators.append(path)
        try:
            state = object.__getattribute__(value, "__dict__")
        except AttributeError:
            state = {}
        self._entries_of(state, [n for n in state if self._counts(value, n, state[n])], path)
        if isinstance(value, (nn.Module, *_OPEN)) or not in_library(type(value)):
            self._kinds.append((value, type(value), path))
            self._over_the_class(value, state, path)
        if in_library(type(value)):
            return
        for cls in type(value).__mro__:
            self._walk(cls, cls.__qualname__)
        names = self._attributes_of(value)
        for name in (n for cls in type(value).__mro__ for n in _slots(cls) if n in names):
            self._other(partial(getattr, value, name, None), f"{path}.{name}")

    def _over_the_class(self, owner: Any, state: dict[str, Any], path: str) -> None:
        """The methods and attributes of a class, which an object may get of its own."""
        names, classes = self._attributes_of(owner), type(owner).__mro__
        own = {n for cls in classes if not in_library(cls) for n in vars(cls)}
        asked = {n for n in self._asked_for() if n in names}
        self._absent(state, {n for n in own | asked if n in names} | {"forward"}, path)
        for cls in classes:  # The class may get them too.
            if not in_library(cls):
                self._absent(vars(cls), asked, path)

    def _asked_for(self) -> set[str]:
        return set() if self._calls is None else self._calls.asked_for()

    def _absent(self, table: Mapping[str, Any], names: set[str], path: str) -> None:
        """Names that are not there, and may come."""
        new = names - table.keys()
        self._entries += [(table, name, _MISSING, f"{path}.{name}") for name in new]

    def _counts(self, owner: Any, name: str, value: Any) -> bool:
        """Whether an attribute is part of the state of its owner."""
        if isinstance(owner, nn.Module):
            if name in ("training", "forward"):
                return True
            if name in _HELD:  # tables and hooks, which are followed already
                return False
        if name not in self._attributes_of(owner):
            return False
        if not in_library(type(owner)) or is_plain(value):
            return not (type(owner).__module__.startswith("pyro_vae") and name.startswith("_"))
        # What else a library's object holds may be a cache of its own, as a transform's is.
        followed = isinstance(value, _FOLLOWED) or not in_library(type(value))
        return followed and isinstance(owner, (nn.Module, *_OPEN)) and not name.startswith("_")

    def _entries_of(self, table: Mapping[Any, Any], names: Iterable[Any], path: str) -> None:
        for name in names:
            self._entries.append((table, name, table[name], f"{path}.{name}"))
            self._walk(table[name], f"{path}.{name}")

    def _variables(self, space: Mapping[str, Any], names: Iterable[str]) -> None:
        for name in names:
            value = space.get(name, _MISSING)  # It may come later.
            self._entries.append((space, name, value, name))
            self._walk(value, name)
            if value is _MISSING and name in vars(builtins):
                self._entries.append((vars(builtins), name, vars(builtins)[name], name))
        if not ENVIRONMENT.isdisjoint(names):
            self._others.append((os.environ.copy, os.environ.copy(), None, "os.environ"))

    def _python_module(self, module: ModuleType, path: str) -> None:
        """What the program names; of a library, numbers, strings, and containers of them."""
        if self._calls is not None:
            names, own = self._calls.attributes(module), not in_library(module.__name__)
            found = [(n, v) for n, v in [*vars(module).items()] if n in names]
            read = [n for n, v in found if own or (not n.startswith("_") and is_plain(v))]
            self._entries_of(vars(module), read, path)

    def _class(self, cls: type, path: str) -> None:
        if not in_library(cls):
            names = self._attributes_of(cls)
            read = [n for n in vars(cls) if n in names or n in ("forward", "__call__")]
            self._entries_of(
                vars(cls), [n for n in read if n not in _OF_A_CLASS], cls.__qualname__
            )
            for name, value in vars(cls).items():  # Operators have no name in code.
                if name.startswith("__") and isinstance(value, FunctionType):
                    self._entries.append((vars(cls), name, value, f"{cls.__qualname__}.{name}"))
            self._walk(type(cls), f"the class of {cls.__qualname__}")

    def _container(self, value: Any, path: str) -> None:
        elements = elements_of(value)
        self._containers.append((value, elements, path))
        items = value.items() if isinstance(value, dict) else enumerate(elements)
        for key, each in items:
            self._walk(each, f"{path}[{key!r}]" if isinstance(key, NUMBERS) else path)

    def _array(self, value: np.ndarray, path: str) -> None:
        if value.size > _ARRAY:
            self._refuse(f"{path}, an array of {value.size:,} numbers that is no tensor")
            return
        if value.dtype.hasobject:
            self._other(value.tolist, path)
            return

        def write(before: np.ndarray) -> None:
            value[...] = before

        self._others.append((lambda: value, value.copy(), write, path))

    def _builtin(self, function: Any, path: str) -> None:
        """A method of an object of C, such as a dict's ``get``."""
        if not isinstance(function.__self__, ModuleType):
            self._walk(function.__self__, path)

    def _cached(self, function: Any, path: str) -> None:
        """A function with a cache, which need not run to be read; clearing it is a change too."""
        self._other(lambda: function.cache_info()[1::2], path)
        inner = function.__wrapped__
        if isinstance(inner, FunctionType):
            if self._calls is not None:
                self._calls.add(inner)
            self._walk(inner, path)

    def _opaque(self, value: Any, path: str) -> None:
        read = next(read for kind, read in OPAQUE.items() if isinstance(value, kind))
        self._other(partial(read, value), path)

    def _thread_local(self, value: threading.local, path: str) -> None:
        table = value.__dict__  # that of this thread, in which the steps run
        self._sizes.append((table, len(table), path))
        self._entries_of(table, list(table), path)
        self._object(value, path)

    def _method(self, method: MethodType, path: str) -> None:
        self._walk(method.__self__, path)
        self._walk(method.__func__, path)

    def _function(self, function: FunctionType, path: str) -> None:
        if in_library(function.__module__):
            return
        self._others.append((lambda: function.__code__, function.__code__, None, path))
        self._other(lambda: function.__defaults__, path)
        self._other(lambda: function.__kwdefaults__, path)
        own, names = vars(function), self._attributes_of(function)
        self._entries_of(own, [name for name in own if name in names], path)
        self._walk(own.get("registry"), f"{path}.registry")  # of functools.singledispatch
        free = function.__code__.co_freevars
        for name, cell in zip(free, function.__closure__ or (), strict=True):
            self._walk(cell, f"{name} of {path}")
        if self._calls is None:
            names = names_in(function.__code__)
            self._named |= names.variables | names.attributes | {*function.__code__.co_freevars}
            self._variables(function.__globals__, names.variables)
            self._walk(getattr(function, "__wrapped__", None), path)

    def _cell(self, cell: CellType, path: str) -> None:
        self._other(partial(content, cell), path, partial(setattr, cell, "cell_contents"))

    def _other(
        self, read: Callable[[], Any], path: str, write: Callable[[Any], Any] | None = None
    ) -> None:
        self._others.append((read, read(), write, path))
        self._walk(read(), path)

    def _generator(self, generator: Any, path: str) -> None:
        if isinstance(generator, random.SystemRandom):
            self._refuse(f"{path}, whose numbers are the system's")
            return
        read, write = generator_state(generator)
        self._others.append((read, read(), write, path))


_OF_PYRO = "unconstrained"  # the attribute of a parameter by which Pyro knows its number
_HELD = frozenset(vars(nn.Module())) - {"training"}
_OF_A_CLASS = "__dict__", "__weakref__", "__doc__", "__module__", "__slots__"


def _slots(cls: type) -> Iterable[str]:
    slots = vars(cls).get("__slots__", ())
    private = f"_{cls.__name__.lstrip('_')}"
    for name in (slots,) if isinstance(slots, str) else slots:
        hidden = name.startswith("__") and not name.endswith("__")
        yield private + name if hidden else name
