"""The Python functions that a program calls, and the names of variables and attributes in them."""

import builtins
import datetime
import dis
import gc
import io
import sys
import time
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from inspect import unwrap
from types import CellType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

import pyro
import torch

__all__ = ["ALL", "ENVIRONMENT", "Calls", "Names", "in_library", "names_in"]

_LIBRARIES = {"torch", "torchvision", "functorch", "triton", "pyro", "zuko", "numpy", "pyro_vae"}
_LIBRARIES |= {*sys.stdlib_module_names} - {"__main__"}

# Functions written in C that do more than compute a result from their arguments, and modules of
# Python with such functions.
_TIMES = "time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "sleep"
_EFFECTS: dict[Any, str] = {getattr(time, name): f"time.{name}" for name in _TIMES}
_EFFECTS |= {getattr(builtins, name): name for name in ("print", "open", "input")}
_EFFECTS |= {datetime.datetime.now: "datetime.now", warnings.warn: "warnings.warn"}
_SYSTEM = {"posix", "nt"}  # where the functions of ``os`` are written in C
_EFFECTIVE = {"logging", "os", "pathlib", "subprocess", "socket", "secrets", "uuid", "tempfile"}

# Functions that set or read the state of torch's generators, which a graph does not: it has the
# draws alone. Checkpointed modules call them, so as to draw again what they have drawn.
_SEEDING: dict[CodeType, str] = {
    unwrap(getattr(module, name)).__code__: f"{module.__name__}.{name}"
    for module, names in (
        (torch.random, ("manual_seed", "seed", "initial_seed", "fork_rng")),
        (torch.random, ("get_rng_state", "set_rng_state")),
        (torch.cuda.random, ("manual_seed", "manual_seed_all", "seed", "seed_all")),
        (torch.cuda.random, ("initial_seed", "get_rng_state", "set_rng_state")),
        (pyro.util, ("set_rng_seed", "get_rng_state", "set_rng_state")),
    )
    for name in names
}
_BETWEEN = {"torch", "pyro", "contextlib"}  # whose functions stand between these and their caller
_CHECKPOINT, _FORK = "torch.utils.checkpoint", unwrap(torch.random.fork_rng).__code__
_OF_A_GENERATOR = {"manual_seed", "seed", "initial_seed", "get_state", "set_state"}

ENVIRONMENT = {"environ", "environb", "getenv"}
"""Names by which code reads the variables of the environment, which are compared too."""

_READING_THE_ENVIRONMENT = "__getitem__", "getenv", "encode", "decode"

# Names in code that reads an attribute which need not be there.
_ASKING = {"getattr", "hasattr", "AttributeError", "suppress"}

# Names of functions that read attributes and variables by a name that the code need not have.
_BY_ANY_NAME = {"getattr", "setattr", "hasattr", "delattr", "vars", "__dict__", "locals"}
_BY_ANY_NAME |= {"eval", "exec", "globals", "attrgetter", "asdict", "astuple", "fields"}
_BY_ANY_NAME |= {"replace", "copy", "deepcopy"}


def in_library(module: str | type | None) -> bool:
    """Whether a Python module, or a class, belongs to a library, whose state does not change."""
    name = module.__module__ if isinstance(module, type) else module
    if name is None:
        return False
    return name.partition(".")[0] in _LIBRARIES or name.startswith("namedtuple_")


class _All:
    """All names."""

    def __contains__(self, name: object) -> bool:
        return True


ALL: Container[object] = _All()
"""All names."""


class Names(NamedTuple):
    """The names in the code of a function: global variables, attributes, and variables it sets."""

    variables: frozenset[str]
    attributes: frozenset[str]
    set_outside: frozenset[str]


@lru_cache(4096)
def names_in(code: CodeType) -> Names:
    """The names in some code, and in that of functions inside it."""
    variables, attributes, outside = set(), set(), set()
    for each in dis.get_instructions(code):
        name, kind = each.argval, each.opname
        if "GLOBAL" in kind or "_NAME" in kind:
            variables.add(name)
        elif "ATTR" in kind or "METHOD" in kind:
            attributes.add(name)
        elif kind == "STORE_DEREF":
            outside.add(name)
    for constant in code.co_consts:
        if isinstance(constant, str):  # the name that `getattr` is given
            attributes.add(constant)
        elif isinstance(constant, tuple | frozenset):  # those of a pattern of `match`
            attributes.update(each for each in constant if isinstance(each, str))
        elif isinstance(constant, CodeType):
            inner = names_in(constant)
            variables |= inner.variables
            attributes |= inner.attributes
            outside |= inner.set_outside
    return Names(*map(frozenset, (variables, attributes, outside)))


class Calls:
    """The functions that a program has called, apart from those written in C.

    Attributes:
        effect: What the program does besides computing with tensors, such as printing, and where;
            ``""`` if it does nothing of the kind.
    """

    def __init__(self) -> None:
        self.effect = ""
        self._recomputing: list[torch.Tensor] = []  # states in which checkpoints draw again
        self._checkpoint = ""  # where the last one is
        self._spaces: dict[CodeType, Mapping[str, Any]] = {}  # global variables, by code
        self._own: dict[CodeType, list[dict[str, Any]]] = {}  # closures of what is in no library
        self._names: dict[bool, Container[object]] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Records the calls of this thread inside the block."""
        self._names = {}
        before, collects = sys.getprofile(), gc.isenabled()
        gc.disable()  # Its callbacks would be taken for a part of the program.
        sys.setprofile(self._see)
        try:
            yield
        finally:
            sys.setprofile(None)
            if callable(before):
                sys.setprofile(before)
            elif before is not None:  # cProfile's, which is no function
                before.enable()
            if collects:
                gc.enable()

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "c_call":
            if code in self._own and not self.effect:
                self._see_effect(argument, frame)
        elif event == "call":
            if code in _SEEDING and not self.effect:
                self._see_seeding(_SEEDING[code], frame)
            if code not in self._spaces:
                self._spaces[code] = frame.f_globals
                if not in_library(frame.f_globals.get("__name__")):
                    self._own[code] = []
            if code in self._own:
                if code.co_freevars:
                    local = frame.f_locals
                    self._own[code].append({n: local.get(n) for n in code.co_freevars})
            elif not self.effect and frame.f_back and frame.f_back.f_code in self._own:
                module = frame.f_globals.get("__name__", "")
                if module in _EFFECTIVE and code.co_name not in _READING_THE_ENVIRONMENT:
                    self._found(f"{module}.{code.co_name}", frame.f_back)

    def _see_effect(self, function: Any, frame: FrameType) -> None:
        try:
            effect = _EFFECTS.get(function)
        except TypeError:  # a method of an object that cannot be hashed
            return
        name = getattr(function, "__name__", "")
        if isinstance(owner := getattr(function, "__self__", None), io.IOBase):
            effect = f"{type(owner).__name__}.{name}"
        elif isinstance(owner, torch.Generator) and name in _OF_A_GENERATOR:
            effect = f"torch.Generator.{name}"
        elif isinstance(owner, ModuleType) and owner.__name__ in _SYSTEM and name != "fspath":
            effect = f"os.{name}"
        if effect is not None:
            self._found(effect, frame)

    def _see_seeding(self, what: str, frame: FrameType) -> None:
        """Finds who seeds, behind the libraries; this package puts states back by itself."""
        outer: FrameType | None = frame
        checkpoints = False
        while outer and str(outer.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
            checkpoints |= outer.f_globals.get("__name__") == _CHECKPOINT
            outer = outer.f_back
        if checkpoints and what.startswith("torch.random"):
            self._see_checkpoint(frame, outer)
        elif outer and not in_library(outer.f_globals.get("__name__")):
            self._found(what, outer)

    def _see_checkpoint(self, frame: FrameType, outer: FrameType | None) -> None:
        """Finds checkpoints that draw: the state has moved when the backward pass puts it back."""
        if outer and frame.f_code is torch.get_rng_state.__code__ and not self._recomputing:
            self._checkpoint = f"{outer.f_code.co_filename}:{outer.f_lineno}"
        elif frame.f_code is torch.set_rng_state.__code__:
            if frame.f_back and frame.f_back.f_code is not _FORK:
                self._recomputing.append(frame.f_locals["new_state"])
            elif self._recomputing:
                before = self._recomputing.pop()
                if not torch.equal(torch.default_generator.get_state(), before):
                    self.effect = f"calls {_CHECKPOINT} with random numbers at {self._checkpoint}"

    def _found(self, what: str, frame: FrameType) -> None:
        outer = frame.f_back
        while outer is not None:  # A handler of logging may be anything.
            if outer.f_globals.get("__name__") in _EFFECTIVE:
                return
            outer = outer.f_back
        self.effect = f"calls {what} at {frame.f_code.co_filename}:{frame.f_lineno}"

    def add(self, function: FunctionType) -> None:
        """Takes a function as one that has run: its results are in a cache."""
        code = function.__code__
        if code not in self._own and not in_library(function.__module__):
            cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
            self._spaces[code] = function.__globals__
            self._own[code] = [{name: content(cell) for name, cell in cells}]
            self._names = {}

    # What they read.

    def functions(self) -> list[FunctionType]:
        """The functions outside of libraries that ran."""
        if not self._own:
            return []
        rebound = {name for code in self._own for name in names_in(code).set_outside}
        return [
            function
            for function in gc.get_referrers(*self._own)
            if isinstance(function, FunctionType)
            and function.__code__ in self._own
            and self._ran(function, rebound)
        ]

    def _ran(self, function: FunctionType, rebound: set[str]) -> bool:
        """Whether this function ran, and not another one with the same code."""
        cells = dict(
            zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        ).items()
        return not cells or any(
            all(name in rebound or content(cell) is closure[name] for name, cell in cells)
            for closure in self._own[function.__code__]
        )

    def variables(self) -> Iterator[tuple[Mapping[str, Any], frozenset[str]]]:
        """The global variables that functions outside of libraries name, by module."""
        read: set[CodeType] = set()
        while new := self._own.keys() - read:  # Following one may add another.
            for code in new:
                names = names_in(code)
                yield self._spaces[code], names.variables | (names.attributes & ENVIRONMENT)
            read |= new

    def asked_for(self) -> set[str]:
        """Names of attributes that an object may get later: those that code asks for."""
        codes = [code for code in self._own if _ASKING & {*code.co_names}]
        return {name for code in codes for name in names_in(code).attributes}

    def attributes(self, owner: Any) -> Container[object]:
        """The names of an object's attributes that the functions read, or may read."""
        cls = owner if isinstance(owner, type) else type(owner)
        # A class of a library has methods there; object and nn.Module are bases of any.
        inherits = sum(in_library(each) for each in cls.__mro__) > 2
        if inherits not in self._names:
            codes = [*self._own, *(self._spaces if inherits else ())]
            names = frozenset(name for code in codes for name in names_in(code).attributes)
            by_any = any(_BY_ANY_NAME & {*code.co_names} for code in self._own)
            self._names[inherits] = ALL if by_any else names
        return self._names[inherits]


def content(cell: CellType) -> Any:
    """What a closure's variable has; the cell itself if it has no value yet, or no longer."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell
