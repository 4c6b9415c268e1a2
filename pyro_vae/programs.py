"""Pyro programs given as functions, which run with the modules of the pair that has them."""

import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import unwrap
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae.compat import tables
from pyro_vae.compile import Watch

__all__ = ["OwnBaselines", "OwnProgram", "Programs", "exchanged", "name_of", "watched"]

_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.RReLU,
)
"""Modules without tensors whose results depend on their mode."""


@dataclass(frozen=True)
class OwnProgram:
    """A program that is a module of the pair, or a method of one.

    Attributes:
        path: The path of the module in the pair.
        method: The function of the method; None if the module itself is called.
    """

    path: str
    method: Callable[..., Any] | None


class Programs:
    """The model and the guide of a pair, and the modules that their functions close over.

    A copy of a pair has modules of its own, but its functions still close over the modules that
    the first pair was given. These are kept here, so that a call can put the pair's own in their
    place. A deep copy keeps them. A pickle has the names of the global variables by which the
    functions reach them.

    Arguments:
        programs: A function or an :class:`OwnProgram` for ``"model"`` and for ``"guide"``.
        originals: The modules that the functions close over, by their path in the pair.
    """

    def __init__(
        self,
        programs: Mapping[str, Callable[..., Any] | OwnProgram],
        originals: Mapping[str, nn.Module],
    ) -> None:
        self.programs = dict(programs)
        self.originals = dict(originals)

    def function(self, name: str, owner: nn.Module) -> Callable[..., Any]:
        """The program of a name, as a function.

        Arguments:
            name: ``"model"`` or ``"guide"``.
            owner: The pair.
        """
        program = self.programs[name]
        if not isinstance(program, OwnProgram):
            return program
        module = owner.get_submodule(program.path)
        return module if program.method is None else MethodType(program.method, module)

    def replaced(self, owner: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
        """The originals that are no longer the pair's own modules, with those in their place.

        The submodules of both are paired by their paths.
        """
        found = []
        for path, original in self.originals.items():
            own: nn.Module | None = owner
            for part in path.split("."):
                own = getattr(own, part, None)
            if own is original or not isinstance(own, nn.Module):
                continue
            inner = dict(own.named_modules(remove_duplicate=False))
            found += [
                (module, inner[name])
                for name, module in original.named_modules(remove_duplicate=False)
                if name in inner and module is not inner[name]
            ]
        return list({id(original): (original, own) for original, own in found}.values())

    def __deepcopy__(self, memo: Any) -> "Programs":
        return Programs(self.programs, self.originals)

    def __reduce__(self) -> tuple[Any, ...]:
        variables: dict[str, tuple[str, str]] = {}
        for name, program in self.programs.items():
            if isinstance(program, OwnProgram):
                if program.method is not None:
                    _check_importable(name, program.method)
                continue
            _check_importable(name, program)
            for variable, value in _variables(program):
                for path, original in self.originals.items():
                    inner = _path_in(original, value)
                    if inner is not None:
                        variables[path + inner] = variable
        if any(not isinstance(program, OwnProgram) for program in self.programs.values()):
            for path in self.originals:
                if not any(f"{own}.".startswith(f"{path}.") for own in variables):
                    raise pickle.PicklingError(
                        f"{path}: got a module that model and guide do not name as a global "
                        "variable, expected one that they do: a pickle has the names of variables"
                    )
        return _unpickled, (self.programs, variables)


def _unpickled(
    programs: Mapping[str, Callable[..., Any] | OwnProgram],
    variables: Mapping[str, tuple[str, str]],
) -> Programs:
    originals = {
        path: getattr(sys.modules.get(module), name, None)
        for path, (module, name) in variables.items()
    }
    return Programs(
        programs, {path: m for path, m in originals.items() if isinstance(m, nn.Module)}
    )


def _path_in(module: nn.Module, value: object) -> str | None:
    """The path of a value among a module and its submodules, with a dot before it, or None."""
    for path, inner in module.named_modules():
        if inner is value:
            return f".{path}" if path else ""
    return None


def _check_importable(name: str, function: Callable[..., Any]) -> None:
    """Raises PicklingError unless a function can be imported by its name."""
    while isinstance(function, partial):
        function = function.func
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in name_of(function).split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise pickle.PicklingError(
            f"{name}: got {name_of(function)}, expected a function that can be imported by its "
            "name: a pickle has the names of functions, not their code. pyro_vae.save keeps the "
            "parameters of any pair"
        )


def name_of(function: Any) -> str:
    """The name of a function, without the address that its print has.

    Example:
        >>> from pyro_vae.programs import name_of
        >>> name_of(lambda: None), name_of(torch.nn.ReLU())
        ('<lambda>', 'ReLU')
    """
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__qualname__)


@contextmanager
def exchanged(pairs: Iterable[tuple[nn.Module, nn.Module]]) -> Iterator[None]:
    """Puts other modules in the place of some inside the block: each has the other's state.

    Arguments:
        pairs: A module with the one that it is to be.
    """
    before = []
    try:
        for original, own in pairs:
            before.append((original, vars(original), type(original)))
            _become(original, vars(own), type(own))
        yield
    finally:
        for original, state, kind in reversed(before):
            _become(original, state, kind)


class OwnBaselines(Messenger):
    """Gives sites the baselines of a copy in place of the original's, which run later.

    ``TraceGraph_ELBO`` calls a site's ``nn_baseline`` after the program, so :func:`exchanged` does
    not reach it.

    Arguments:
        pairs: A module with the one that it is to be.
    """

    def __init__(self, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        self.own = {id(original): own for original, own in pairs}

    def _pyro_sample(self, msg: Any) -> None:
        baseline = (msg["infer"] or {}).get("baseline", {})
        own = self.own.get(id(baseline.get("nn_baseline")))
        if own is not None:
            msg["infer"] = {**msg["infer"], "baseline": {**baseline, "nn_baseline": own}}


def _become(module: nn.Module, state: dict[str, Any], kind: type) -> None:
    object.__setattr__(module, "__dict__", state)
    if type(module) is not kind:
        object.__setattr__(module, "__class__", kind)


@contextmanager
def watched(
    program: str, function: Callable[..., Any], owner: nn.Module, known: list[Tensor]
) -> Iterator[set[int]]:
    """Checks that a program runs with tensors of its pair alone; yields the ids of those it reads.

    The ids are those of the pair's parameters, and complete at the end of the block.

    Arguments:
        program: ``"model"`` or ``"guide"``, for error messages.
        function: The function that runs inside the block.
        owner: The pair.
        known: Tensors that the program may read, such as its arguments; the block may add some.

    Raises:
        ValueError: The program reads a module or a trained tensor that the pair does not have.
    """
    called: dict[nn.Module, None] = {}
    hook = register_module_forward_pre_hook(lambda module, _: called.update({module: None}))
    read: set[int] = set()
    try:
        with Watch(known) as watch:
            yield read
    finally:
        hook.remove()
    own = {id(t) for t in (*owner.parameters(), *owner.buffers(), *known)}
    own_modules = {id(vars(m)) for m in owner.modules()}  # which a copy puts into the originals
    captured = {id(t): t for t in watch.captured}
    read.update(own & captured.keys())
    for module in called:
        parameters, buffers, _ = tables(module)
        held = {id(t) for t in (*parameters.values(), *buffers.values())} & captured.keys()
        stray = isinstance(module, _DROPOUTS) and id(vars(module)) not in own_modules
        if held - own or (stray and _variable_of(function, module)):
            raise ValueError(_of_another(program, function, module))
    for key, tensor in captured.items():
        if key not in own and tensor.requires_grad and tensor.is_leaf:
            raise ValueError(
                f"{program}: {name_of(function)} reads a tensor of shape {tuple(tensor.shape)} "
                "that requires grad and that the pair does not have, expected pyro.param, or a "
                "module that is passed to Pair by keyword"
            )


def _of_another(program: str, function: Callable[..., Any], module: nn.Module) -> str:
    variable = _variable_of(function, module)
    keyword = variable or "name"
    called = f" as {variable!r}" if variable else ""
    return (
        f"{program}: {name_of(function)} uses a module that the pair does not have, "
        f"{type(module).__name__}{called}, expected it as a keyword: "
        f"Pair(model, guide, {keyword}={keyword})"
    )


def _variable_of(function: Callable[..., Any], module: nn.Module) -> str | None:
    """The name of the variable by which a function reaches a module, or None."""
    for (_, name), value in _variables(function):
        if isinstance(value, nn.Module) and any(inner is module for inner in value.modules()):
            return name
    return None


def _variables(function: Callable[..., Any]) -> Iterator[tuple[tuple[str, str], object]]:
    """The variables outside of a function that it names, with the module that they are in.

    Those of functions that it calls are included, but not those of libraries.
    """
    waiting: list[Any] = [function]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        while isinstance(current, partial):
            current = current.func
        current = unwrap(getattr(current, "__func__", current))
        if not isinstance(current, FunctionType) or id(current) in seen:
            continue
        seen.add(id(current))
        if current.__module__.split(".")[0] in ("torch", "pyro", "numpy"):
            continue
        names = set(_names(current.__code__))
        space = current.__globals__
        cells = zip(current.__code__.co_freevars, current.__closure__ or (), strict=False)
        found = {name: space[name] for name in names if name in space}
        for name, cell in cells:
            try:
                found[name] = cell.cell_contents
            except ValueError:  # It has no value yet.
                continue
        for name, value in found.items():
            yield (current.__module__, name), value
            if isinstance(value, ModuleType):
                inner = {n: vars(value)[n] for n in names if n in vars(value)}
                yield from (((value.__name__, n), v) for n, v in inner.items())
                waiting += inner.values()
            waiting.append(value)


def _names(code: CodeType) -> Iterator[str]:
    """The names that some code uses, with those of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
