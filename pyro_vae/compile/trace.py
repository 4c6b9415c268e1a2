"""Traces a Python function of tensors to a graph, without reading a value."""

import numbers
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import torch
from pyro.infer.util import torch_item
from pyro.util import warn_if_inf, warn_if_nan
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_vae.compat import fake_tensors, unchecked_distributions, without_onednn
from pyro_vae.compile.capture import cuda_devices
from pyro_vae.compile.inductor import DECOMPOSITIONS
from pyro_vae.compile.partition import compile_in_two
from pyro_vae.compile.static import UNCOMPILED, NotCompiled, NotStatic, static_reach

__all__ = [
    "compiled_function",
    "lift",
    "reading_no_values",
    "trace",
    "varying",
]


def trace(program: Callable[..., Any], tensors: Sequence[Tensor]) -> GraphModule:
    """Traces a program to a graph, without computing values or drawing random numbers.

    Arguments:
        program: A function of tensors.
        tensors: Examples of its arguments.

    Raises:
        NotStatic: The program reads a tensor's value.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    fake, errors = fake_tensors()
    try:
        with (
            pyro.validation_enabled(False),
            unchecked_distributions(),
            torch.random.fork_rng(cuda_devices(tensors)),
            without_onednn(),
            fake,
        ):
            fakes = [fake.from_tensor(t.detach(), static_shapes=True) for t in tensors]
            return make_fx(program, DECOMPOSITIONS)(*fakes)
    except errors as error:
        raise NotStatic(
            "compiled: the model, the guide or the objective reads a tensor's value"
            f"{_place(error)} (by .item(), float(), bool(), an if, or an index of bools), "
            "expected a program of static structure, which runs the same operations for all "
            f"values; {UNCOMPILED} ({str(error).splitlines()[0]})"
        ) from error


def lift(traced: GraphModule) -> list[Tensor]:
    """Turns the tensors that a graph holds into its first inputs; returns these tensors."""
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


def varying(traced: GraphModule, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors among the first inputs of a graph whose values decide its results.

    The others are not used, or are literals of the program, such as ``torch.tensor(0.0)``, of
    which each run takes a copy: nobody else has them, so they never change.

    Arguments:
        traced: The graph.
        tensors: Its first inputs.
    """
    literal = torch.ops.aten.lift_fresh_copy.default
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    return [
        tensor
        for tensor, node in zip(tensors, inputs, strict=False)
        if not all(user.target is literal for user in node.users)
    ]


def compiled_function(
    function: Callable[..., Any],
    examples: Sequence[Tensor],
    fixed: int = 0,
    roots: Sequence[object] = (),
    small: Sequence[Tensor] | None = None,
) -> Callable[..., Any]:
    """Compiles a function of tensors, for tensors of these shapes and without gradients.

    The compiled code keeps all other tensors that the function reads. Their values may change in
    place between calls. Results that depend only on these tensors and on the first `fixed`
    arguments are computed again only if one of them has changed; see
    :func:`~pyro_vae.compile.partition.compile_in_two`.

    Arguments:
        function: The function.
        examples: Examples of its arguments.
        fixed: Number of arguments that rarely change.
        roots: Objects that the function reads.
        small: Smaller examples, on which it runs uncompiled; None takes `examples`.

    Raises:
        NotStatic: The function does something that a graph does not repeat.
        NotCompiled: torch cannot compile the function.
    """

    def run() -> list[nn.Module]:
        called: list[nn.Module] = []
        hook = register_module_forward_pre_hook(lambda module, _: called.append(module))
        try:
            with torch.no_grad():
                function(*(examples if small is None else small))
        finally:
            hook.remove()
        return called

    static_reach([run, run], roots, examples)
    try:
        with torch.no_grad():
            traced = trace(function, examples)
            held = lift(traced)
            with torch.random.fork_rng(cuda_devices([*held, *examples])):
                code = compile_in_two(traced, [*held, *examples], len(held) + fixed)
    except NotCompiled:
        raise
    except Exception as error:
        raise NotCompiled(
            f"function: torch cannot compile it ({type(error).__name__}: {error})"
        ) from error

    def compiled(*tensors: Tensor) -> Any:
        with torch.no_grad():
            return code(*held, *tensors)

    return compiled


@contextmanager
def reading_no_values(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Replaces Pyro's functions that turn a tensor into a number, inside the block.

    Arguments:
        modules: The Python modules in which the functions are replaced.
    """

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
        for module in set(modules):
            for name, value in list(vars(module).items()):
                if callable(value) and value in (torch_item, warn_if_nan, warn_if_inf):
                    stack.callback(setattr, module, name, value)
                    setattr(module, name, instead[value])
        yield


def _place(error: BaseException) -> str:
    """The innermost place of an error outside of torch, Pyro and this folder."""
    libraries = tuple(str(Path(module.__file__ or "").parent) for module in (torch, pyro))
    tracing = str(Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*libraries, tracing))]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
