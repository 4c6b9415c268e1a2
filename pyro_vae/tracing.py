"""One Pyro program's loss and gradients as one compiled graph."""

import numbers
import sys
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.poutine.runtime import _PYRO_STACK, effectful
from pyro.util import warn_if_inf, warn_if_nan
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from pyro_vae import inductor
from pyro_vae.guards import Modules, inputs, is_input, layout
from pyro_vae.hoisting import compile_hoisted
from pyro_vae.recording import layers, recording, terms
from pyro_vae.supports import check_on_support, scored_support

Kind = Literal["loss", "gradients"]


class NotCompiled(RuntimeError):
    """torch cannot make a graph of a model and guide."""


class NotStatic(NotCompiled):
    """A model or guide is no static program: it reads a tensor's value, or replaces a tensor."""


class Graph:
    """One traced and compiled loss of a model and guide, for arguments of one shape."""

    def __init__(
        self, kind: Kind, elbo: ELBO, model: Any, guide: Any, args: Any, kwargs: Any
    ) -> None:
        self._program = elbo, model, guide
        self._modules = Modules([])
        self._captured: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self.parameters = self._rehearse(args, kwargs)
        constraints = pyro.get_param_store()._constraints
        self._constraints = {name: constraints[name] for name in self.parameters}
        self._binds_its_own = False
        given = inputs(args, kwargs)
        try:
            traced = self._trace(kind, given, args, kwargs)
            self._captured = [*_lift(traced), *self._captured]
            with torch.no_grad(), torch.random.fork_rng(_cuda_devices(self._captured)):
                self._compiled = inductor.compile_graph(traced, [*self._captured, *given])
        except NotCompiled:
            raise
        except Exception as error:  # what ran uncompiled a moment ago, torch cannot compile
            raise NotCompiled(
                f"compiled: torch cannot compile this program ({type(error).__name__}: {error}); "
                "without compiled() it runs as it is"
            ) from error
        self.size = len(traced.graph.nodes)
        self._layouts = [(layout(t), t.requires_grad) for t in self._captured]

    def run(self, args: Any, kwargs: Any) -> list[Tensor]:
        """``[loss, E_q log p(x|z), sampled KL]`` as one tensor, then the leaves' gradients."""
        with torch.no_grad():
            return list(self._compiled(*self._captured, *inputs(args, kwargs)))

    # What the graph was traced with, and whether that is still so.

    def holds(self) -> bool:
        """Whether modules and tensors are what they were when the graph was traced."""
        return self._modules.hold() and all(
            (layout(tensor), tensor.requires_grad) == before
            for tensor, before in zip(self._captured, self._layouts, strict=True)
        )

    def is_bound(self) -> bool:
        """Whether Pyro's store has the parameters that the graph reads."""
        store = pyro.get_param_store()._params
        return all(store.get(name) is tensor for name, tensor in self.parameters.items())

    def bind(self, args: Any, kwargs: Any) -> bool:
        """Lets the program bind its parameters; whether they are the graph's then.

        A program of which that was so once puts its own tensors into the store, whatever lies
        there, and so can be done by hand from then on.
        """
        store = pyro.get_param_store()
        if self._binds_its_own:
            store.set_state({"params": self.parameters, "constraints": self._constraints})
            return True
        random = _Random(self._captured)
        parameters = self._run_once(args, kwargs).parameters
        random.restore()
        self._binds_its_own = parameters.keys() == self.parameters.keys() and self.is_bound()
        return self._binds_its_own

    def emit_parameters(self) -> None:
        """Tells the handlers around the step which parameters it reads."""
        if not _PYRO_STACK:
            return
        for name, tensor in self.parameters.items():
            if getattr(tensor, "unconstrained", None) is None:
                tensor.unconstrained = weakref.ref(tensor)  # type: ignore[attr-defined]
            _parameter_site(tensor, name=name)

    # Making it.

    def _rehearse(self, args: Any, kwargs: Any) -> dict[str, Tensor]:
        """Runs the program once, uncompiled: parameters come to be, supports are checked."""
        _, model, guide = self._program
        store, random = pyro.get_param_store(), _Random(inputs(args, kwargs))
        names = set(store.keys())
        run = self._run_once(args, kwargs)
        if set(store.keys()) != names:
            # Parameters may have been drawn just now, and their numbers must not come again as
            # noise. Whether they were, a second run shows, which draws the noise alone.
            drawn = _Random(inputs(args, kwargs))
            random.restore()
            run = self._run_once(args, kwargs)
            if drawn != _Random(inputs(args, kwargs)):
                random = drawn
        random.restore()
        owners = [getattr(program, "__self__", program) for program in (model, guide)]
        modules = [*run.modules, *(owner for owner in owners if isinstance(owner, nn.Module))]
        self._modules = Modules(modules)
        self._captured = list(run.captured)
        for model_trace, _ in run.traces:
            for name, site in model_trace.nodes.items():
                if site["type"] == "sample" and site["is_observed"] and site["mask"] is None:
                    check_on_support(name, site["value"], scored_support(site["fn"]))
        return run.parameters

    def _run_once(self, args: Any, kwargs: Any) -> "_Run":
        """One loss that leaves weights, buffers and other tensors as they were."""
        elbo, model, guide = self._program
        modules: list[nn.Module] = []
        watch, attributes = _Watch(inputs(args, kwargs)), _Tensors()

        def see(module: nn.Module, _: Any) -> None:
            modules.append(module)
            watch.keep(module.buffers())  # torch's batch norm does not say that it writes
            attributes.keep(module)

        hook = register_module_forward_pre_hook(see)
        try:
            with (
                torch.no_grad(),
                poutine.block(),
                poutine.trace(param_only=True) as sites,
                recording(elbo) as traces,
                watch,
            ):
                elbo.loss(model, guide, *args, **kwargs)
        finally:
            hook.remove()
            replaced = attributes.restore()
            watch.restore()
        if replaced:
            raise NotStatic(
                f"compiled: model or guide replaces {replaced} as it runs, expected in-place "
                "changes (copy_, mul_, add_), of which a graph can take part; without compiled() "
                "it runs as it is"
            )
        parameters = {
            name: site["value"].unconstrained() for name, site in sites.trace.nodes.items()
        }
        return _Run(parameters, modules, watch.captured, traces)

    def _trace(self, kind: Kind, given: list[Tensor], args: Any, kwargs: Any) -> GraphModule:
        """Loss and gradients as a graph of what was captured and the arguments, in that order."""
        elbo, model, guide = self._program
        static, spec = pytree.tree_flatten((args, kwargs))

        def program(*tensors: Tensor) -> list[Tensor]:
            captured, rest = tensors[: len(self._captured)], iter(tensors[len(self._captured) :])
            leaves = [next(rest) if is_input(leaf) else leaf for leaf in static]
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            with (
                _Instead(dict(zip(self._captured, captured, strict=True))),
                recording(elbo) as traces,
                torch.set_grad_enabled(kind == "gradients"),
            ):
                method = elbo.loss if kind == "loss" else elbo.differentiable_loss
                loss = torch.as_tensor(method(model, guide, *args, **kwargs))
                likelihood, kl = terms(traces, elbo.num_particles)
                values = torch.stack([v.detach().to(loss) for v in (loss, likelihood, kl)])
                self.leaves = _leaves(loss)
                return [values, *_gradients(loss, self.leaves)]

        with poutine.block(), _reads_no_values(elbo):
            return _traced(program, [*self._captured, *given])


@dataclass
class _Run:
    parameters: dict[str, Tensor]
    modules: list[nn.Module]
    captured: dict[Tensor, None]
    traces: list[tuple[poutine.Trace, poutine.Trace]]


class _Tensors:
    """The tensors that modules have as attributes and buffers."""

    def __init__(self) -> None:
        self._tables: dict[int, tuple[str, dict[str, Any], dict[str, Tensor]]] = {}

    def keep(self, module: nn.Module) -> None:
        """Remembers those of a module, as they are at the first call."""
        for table in (vars(module), module._buffers):
            if id(table) not in self._tables:
                held = {name: v for name, v in table.items() if isinstance(v, Tensor)}
                self._tables[id(table)] = type(module).__name__, table, held

    def restore(self) -> str:
        """Puts back what was replaced since; returns its name."""
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


class _Watch(TorchDispatchMode):
    """Sees which tensors a program uses that are neither given to it nor made by it."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.captured: dict[Tensor, None] = {}
        self._known = WeakIdKeyDictionary(dict.fromkeys(given))
        self._before = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        used = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for tensor in used:
            if tensor not in self._known:
                self.captured[tensor] = self._known[tensor] = None
        if func._schema.is_mutable:
            memory = {tensor.untyped_storage().data_ptr() for tensor in used}
            self.keep(t for t in self.captured if t.untyped_storage().data_ptr() in memory)
        made = func(*args, **kwargs)
        for tensor in pytree.tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor not in self._known:
                self._known[tensor] = None
        return made

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Remembers what tensors hold that may be written over."""
        for tensor in tensors:
            if tensor not in self._before:
                self._before[tensor] = tensor.detach().clone()

    def restore(self) -> None:
        """Puts back what the program has written over."""
        with torch.no_grad():
            for tensor, value in self._before.items():
                tensor.copy_(value)


class _Instead(TorchDispatchMode):
    """Computes with other tensors in the place of some, which autograd goes on to see."""

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


_parameter_site = effectful(lambda tensor: tensor, type="param")


class _Random:
    """Where torch's global generators stand."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = {d: torch.cuda.get_rng_state(d) for d in _cuda_devices(tensors)}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Random)
            and torch.equal(self._cpu, other._cpu)
            and self._cuda.keys() == other._cuda.keys()
            and all(torch.equal(s, other._cuda[d]) for d, s in self._cuda.items())
        )

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)


def _cuda_devices(tensors: list[Tensor]) -> list[torch.device]:
    return list({tensor.device for tensor in tensors if tensor.is_cuda})


def compiled_function(
    function: Callable[..., Any], examples: Sequence[Tensor], fixed: int = 0
) -> Callable[..., Any]:
    """A function of tensors without gradients as a compiled graph, for tensors of these shapes.

    Whatever else it reads is held, to be read again at each call: values may change in place, and
    nothing else may. What follows from that and from the first `fixed` tensors is computed again
    where it or they have changed, see :func:`pyro_vae.hoisting.compile_hoisted`.

    Raises:
        NotCompiled: torch cannot make a graph of it.
    """
    try:
        with torch.no_grad():
            traced = _traced(function, list(examples))
            held = _lift(traced)
            with torch.random.fork_rng(_cuda_devices([*held, *examples])):
                run = compile_hoisted(traced, [*held, *examples], len(held) + fixed)
    except NotCompiled:
        raise
    except Exception as error:
        raise NotCompiled(f"torch cannot compile it ({type(error).__name__}: {error})") from error

    def compiled(*tensors: Tensor) -> Any:
        with torch.no_grad():
            return run(*held, *tensors)

    return compiled


def _traced(program: Callable[..., Any], tensors: list[Tensor]) -> GraphModule:
    """A program of tensors as a graph: nothing is computed, drawn or moved, and no value read."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )
    from torch.fx.experimental.proxy_tensor import make_fx

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with (
            pyro.validation_enabled(False),
            _validates_nothing(),
            torch.random.fork_rng(_cuda_devices(tensors)),
            fake,
        ):
            fakes = [fake.from_tensor(t.detach(), static_shapes=True) for t in tensors]
            return make_fx(program, inductor.DECOMPOSITIONS)(*fakes)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise NotStatic(
            f"compiled: the model or the guide reads a tensor's value{_place(error)} (by "
            ".item(), float(), bool(), an if, or an index of bools), expected a program of "
            "static structure, which does the same for all values; without compiled() it "
            f"runs as it is ({str(error).splitlines()[0]})"
        ) from error


def _leaves(loss: Tensor) -> list[Tensor]:
    """The tensors at the ends of a loss's autograd graph, to which gradients go."""
    found: dict[Tensor, None] = {}
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[node.variable] = None
        waiting += [following for following, _ in node.next_functions]
    return list(found)


def _gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients as the leaves lie in memory, no two of them in the same."""
    gradients: list[Tensor] = []
    if not leaves:
        return gradients
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        if gradient.stride() != leaf.stride():
            gradients.append(torch.empty_like(leaf).copy_(gradient))
        else:
            shared = any(gradient is other for other in gradients)
            gradients.append(gradient.clone() if shared else gradient)
    return gradients


@contextmanager
def _reads_no_values(elbo: ELBO) -> Iterator[None]:
    """Pyro's losses without the calls that turn a tensor into a number on the way."""

    def detached(x: Any) -> Any:
        return x if isinstance(x, numbers.Number) else x.detach()

    def silent(*args: Any, **kwargs: Any) -> None:
        pass

    instead: dict[Callable[..., Any], Callable[..., Any]] = {
        torch_item: detached,
        warn_if_nan: silent,
        warn_if_inf: silent,
    }
    with ExitStack() as stack:
        classes = {cls for layer in layers(elbo) for cls in type(layer).__mro__}
        for module in {sys.modules[cls.__module__] for cls in classes}:
            for name, value in list(vars(module).items()):
                if callable(value) and value in (torch_item, warn_if_nan, warn_if_inf):
                    stack.callback(setattr, module, name, value)
                    setattr(module, name, instead[value])
        yield


def _place(error: BaseException) -> str:
    """Where in the user's own files an error comes from."""
    libraries = tuple(str(Path(module.__file__ or "").parent) for module in (torch, pyro))
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*libraries, __file__))]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""


@contextmanager
def _validates_nothing() -> Iterator[None]:
    """Distributions without checks of values, though they were told to check, or made before."""
    cls = torch.distributions.Distribution
    init, validate = cls.__init__, cls._validate_sample

    def unchecked(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["validate_args"] = False
        init(self, *args[:2], **kwargs)

    try:
        cls.__init__ = unchecked  # type: ignore[method-assign]
        cls._validate_sample = lambda self, value: None  # type: ignore[method-assign]
        yield
    finally:
        cls.__init__ = init  # type: ignore[method-assign]
        cls._validate_sample = validate  # type: ignore[method-assign]


def _lift(traced: GraphModule) -> list[Tensor]:
    """Makes the tensors that are left inside a graph its first inputs."""
    tensors: dict[Tensor, Any] = {}
    graph = traced.graph
    held = [node for node in graph.nodes if node.op == "get_attr"]
    first = next(node for node in graph.nodes if node.op != "get_attr")
    for node in held:
        tensor = getattr(traced, node.target)
        if tensor not in tensors:
            with graph.inserting_before(first):
                tensors[tensor] = graph.placeholder(f"held_{len(tensors)}")
            tensors[tensor].meta = dict(node.meta)
        node.replace_all_uses_with(tensors[tensor])
        graph.erase_node(node)
    traced.recompile()
    return list(tensors)
