"""A static Pyro program as one compiled graph, which detects when it is no longer valid."""

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from pyro_vae.compat import (
    handlers,
    is_compiled,
    parameter_site,
    pytree,
    stored_constraints,
    stored_parameters,
    tables,
)
from pyro_vae.compile.capture import Attributes, RandomState, Substitution, Watch, cuda_devices
from pyro_vae.compile.guards import inputs, is_input, layout
from pyro_vae.compile.inductor import compile_graph
from pyro_vae.compile.reach import Reach
from pyro_vae.compile.recording import Recording, Repeated, Replayed, recorder
from pyro_vae.compile.static import UNCOMPILED, NotCompiled, NotStatic, NotYet, static_reach
from pyro_vae.compile.trace import lift, reading_no_values, trace, varying
from pyro_vae.utils.autocast import fresh_casts

__all__ = ["Graph", "Program"]

_log = logging.getLogger(__name__)

_UNRECORDED = 10  # Runs on a GPU before the code is recorded: a few runs do not repay it.


@dataclass(frozen=True)
class Program:
    """A Pyro program to compile.

    Attributes:
        function: The function to trace, which maps the arguments to a list of tensors.
        rehearse: The same program for an uncompiled run. `check` gets what it returns.
        check: Checks the result of the first uncompiled run, and raises if the program is wrong.
        owners: Modules that belong to the program. Modules that it calls are found without this.
        sources: Python modules in which Pyro's code turns tensors into numbers.
        roots: Further objects that it may read, such as its functions.
    """

    function: Callable[..., list[Tensor]]
    rehearse: Callable[..., Any]
    check: Callable[[Any], None]
    owners: Sequence[nn.Module]
    sources: Iterable[ModuleType]
    roots: Sequence[object] = ()


class Graph:
    """A program that is traced and compiled for arguments of one shape.

    The program runs twice uncompiled. This creates its parameters, and finds the tensors that it
    reads, which become inputs of the graph, and the rest of Python's state in its reach, with
    which the graph holds. Values that the runs change are restored.

    Arguments:
        program: The program.
        args, kwargs: Examples of its arguments.
        by_inductor: Compiles the traced graph. If False, torch runs its operations one by one.

    Attributes:
        captured: The tensors that the program reads besides its arguments.
        varying: Those of them that can change, and whose values matter. They have to be on the
            device of the arguments for a recording.
        parameters: The parameters of Pyro that the program reads, by name.
        size: Number of nodes of the graph.
        has_run: Whether the compiled code has run once.

    Raises:
        NotStatic: The program reads a tensor's value, or does something that a graph does not
            repeat, or reads something whose changes cannot be seen.
        NotYet: A lazy module has no parameters yet.
        NotCompiled: torch cannot compile the program.
    """

    def __init__(self, program: Program, args: Any, kwargs: Any, by_inductor: bool = True) -> None:
        self._program = program
        self.has_run = False
        self._reach = Reach([])
        self.captured: list[Tensor] = []
        with fresh_casts():
            self._make(args, kwargs, by_inductor)

    def _make(self, args: Any, kwargs: Any, by_inductor: bool) -> None:
        """Rehearses, traces and compiles the program."""
        self.parameters = self._rehearse(args, kwargs)
        constraints = stored_constraints()
        self._bounds = {name: constraints[name] for name in self.parameters}
        self._binds_its_own = False
        given = inputs(args, kwargs)
        try:
            traced = self._trace(given, args, kwargs)
            self.captured = [*lift(traced), *self.captured]
            self.varying = varying(traced, self.captured)
            self._compiled: Callable[..., Any] = traced
            if by_inductor:
                with torch.no_grad(), torch.random.fork_rng(cuda_devices(self.captured)):
                    self._compiled = compile_graph(traced, [*self.captured, *given])
        except NotCompiled:
            raise
        except Exception as error:  # The program has just run uncompiled, so torch is the cause.
            raise NotCompiled(
                f"compiled: torch cannot compile this program ({type(error).__name__}: {error}); "
                "without compiled() it runs uncompiled"
            ) from error
        self.size = len(traced.graph.nodes)
        self._record = self._recorder(given)
        self._places: list[int] = []
        self._runs = 0
        self._replayed: Replayed | None = None
        self._layouts = [(layout(t), t.requires_grad) for t in self.captured]

    def run(self, args: Any, kwargs: Any) -> list[Tensor]:
        """Runs the compiled code; returns what the program's function does, without gradients.

        If the first run fails, tensors and random generators are as they were before.
        """
        if self.has_run:
            with torch.no_grad():
                return self._again(inputs(args, kwargs))
        random = RandomState([*self.captured, *inputs(args, kwargs)])
        with torch.no_grad():
            before = [tensor.clone() for tensor in self.captured]
            try:
                values = list(self._compiled(*self.captured, *inputs(args, kwargs)))
            except Exception:
                random.restore()
                for tensor, value in zip(self.captured, before, strict=True):
                    tensor.copy_(value)
                raise
        self.has_run = True
        return values

    def _again(self, given: list[Tensor]) -> list[Tensor]:
        """Runs the code; on a GPU, as a recording once it has run some times."""
        tensors = [*self.captured, *given]
        if self._record is None or self._record.is_active():
            return list(self._compiled(*tensors))
        places = [tensor.data_ptr() for tensor in self.captured]
        if places != self._places:
            self._places, self._runs, self._replayed = places, 0, None
        if self._replayed is not None:
            return self._replayed(*given)
        self._runs += 1
        if self._runs >= _UNRECORDED:
            captured = tuple(self.captured)
            try:
                self._replayed = Replayed(
                    lambda *given: self._compiled(*captured, *given), given, self._record
                )
            except Exception as error:
                _log.info("a graph is not recorded: %s", error)
                self._record = None
        return list(self._compiled(*tensors))

    def _recorder(self, given: list[Tensor]) -> type[Recording] | type[Repeated] | None:
        """What records the code; None unless all that it reads is on one GPU."""
        devices = {tensor.device for tensor in (*self.varying, *given)}
        return recorder(devices.pop()) if len(devices) == 1 and given else None

    def fixed(self, args: Any, kwargs: Any) -> Callable[[], list[Tensor]]:
        """The program for the same tensors each time, which may change in place.

        It has been run once before, and is valid as long as the graph is.
        """
        code, tensors = self._compiled, (*self.captured, *inputs(args, kwargs))

        def run() -> list[Tensor]:
            with torch.no_grad():
                return list(code(*tensors))

        return run

    # Whether the graph is still valid.

    def holds(self) -> bool:
        """Whether modules and tensors are still those with which the graph was traced."""
        return not self._reach.changed() and all(
            (layout(tensor), tensor.requires_grad) == before
            for tensor, before in zip(self.captured, self._layouts, strict=True)
        )

    def is_bound(self) -> bool:
        """Whether Pyro's store still has the parameters that the graph reads."""
        store = stored_parameters()
        return all(store.get(name) is tensor for name, tensor in self.parameters.items())

    def bind(self, args: Any, kwargs: Any) -> bool:
        """Runs the program to bind its parameters; returns whether they are the graph's.

        A program that has bound them once binds its own tensors, whatever the store holds. Later
        calls bind the same tensors without a run.
        """
        if self._binds_its_own:
            pyro.get_param_store().set_state(
                {"params": self.parameters, "constraints": self._bounds}
            )
            return True
        random = RandomState(self.captured)
        parameters = self._run_once(self._program.rehearse, args, kwargs).parameters
        random.restore()
        self._binds_its_own = parameters.keys() == self.parameters.keys() and self.is_bound()
        return self._binds_its_own

    def emit_parameters(self) -> None:
        """Sends the parameters that the program reads to the active handlers."""
        if not handlers():
            return
        for name, tensor in self.parameters.items():
            if getattr(tensor, "unconstrained", None) is None:
                tensor.unconstrained = weakref.ref(tensor)  # type: ignore[attr-defined]
            parameter_site(tensor, name=name)

    # Making the graph.

    def _rehearse(self, args: Any, kwargs: Any) -> dict[str, Tensor]:
        """Runs the program uncompiled, and checks the result; returns its parameters."""
        given, program, store = inputs(args, kwargs), self._program, pyro.get_param_store()
        for owner in program.owners:
            for path, module in owner.named_modules():
                _check_module(module, f"{type(owner).__name__}.{path}")
        names, random = set(store.keys()), RandomState(given)
        runs: list[tuple[_Run, RandomState]] = []

        def run(function: Callable[..., Any]) -> list[nn.Module]:
            found = self._run_once(function, args, kwargs)
            runs.append((found, RandomState(given)))
            return found.modules

        # The others take gradients too, whose functions may read and change something else.
        three = map(partial, [run] * 3, [program.rehearse, program.function, program.function])
        given_objects = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if not is_input(leaf)]
        roots = [*program.owners, *program.roots, *given_objects]
        self._reach = static_reach(list(three), roots, given)
        (found, drawn), *_ = runs
        if set(store.keys()) != names:
            # If the first run drew initial values of parameters, the same random numbers must not
            # be used again as noise. Another run, which draws the noise alone, shows whether.
            found = self._run_once(program.rehearse, args, kwargs)
            if drawn != RandomState(given):
                random = drawn
        random.restore()
        self.captured = list(found.captured)
        program.check(found.result)
        return found.parameters

    def _run_once(self, program: Callable[..., Any], args: Any, kwargs: Any) -> "_Run":
        """Runs a program, and restores parameters, buffers and all other tensors."""
        modules: list[nn.Module] = []
        watch, attributes = Watch(inputs(args, kwargs)), Attributes()

        def see(module: nn.Module, _: Any) -> None:
            _check_module(module, type(module).__name__)
            modules.append(module)
            watch.keep(module.buffers())  # The schema of torch's batch norm omits its writes.
            attributes.keep(module)

        hook = register_module_forward_pre_hook(see)
        try:
            with (
                torch.no_grad(),
                poutine.block(),
                poutine.trace(param_only=True) as sites,
                watch,
            ):
                result = program(*args, **kwargs)
        finally:
            hook.remove()
            replaced = attributes.restore()
            watch.restore()
        if replaced:
            raise NotStatic(
                f"compiled: model or guide replaces {replaced} as it runs, expected changes in "
                f"place (copy_, mul_, add_), which a graph can contain; {UNCOMPILED}"
            )
        parameters = {
            name: site["value"].unconstrained() for name, site in sites.trace.nodes.items()
        }
        return _Run(parameters, modules, watch.captured, result)

    def _trace(self, given: list[Tensor], args: Any, kwargs: Any) -> GraphModule:
        """Traces the function to a graph of the captured tensors and then the arguments."""
        static, spec = pytree.tree_flatten((args, kwargs))

        def function(*tensors: Tensor) -> list[Tensor]:
            captured, rest = tensors[: len(self.captured)], iter(tensors[len(self.captured) :])
            leaves = [next(rest) if is_input(leaf) else leaf for leaf in static]
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            with Substitution(dict(zip(self.captured, captured, strict=True))):
                return self._program.function(*args, **kwargs)

        with poutine.block(), reading_no_values(self._program.sources):
            return trace(function, [*self.captured, *given])


@dataclass
class _Run:
    """What one run of a program used and returned."""

    parameters: dict[str, Tensor]
    modules: list[nn.Module]
    captured: dict[Tensor, None]
    result: Any


def _check_module(module: nn.Module, path: str) -> None:
    """Raises NotYet if a lazy module has no parameters yet, NotStatic if torch has compiled it."""
    if isinstance(module, torch.jit.ScriptModule) or is_compiled(module):
        raise NotStatic(
            f"compiled: {path} is compiled by torch itself, and cannot be a part of a graph; "
            f"{UNCOMPILED}"
        )
    if any(map(is_lazy, tables(module)[0].values())):
        raise NotYet("compiled: a lazy module gets its parameters by a run")
