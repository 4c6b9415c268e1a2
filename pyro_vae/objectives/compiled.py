"""An objective whose losses are compiled graphs, for a plain ``pyro.infer.SVI``."""

import logging
import math
import sys
import time
import warnings
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor, nn

from pyro_vae.compat import guess_plates, handlers
from pyro_vae.compile import (
    Cache,
    Graph,
    NotCompiled,
    Program,
    ambient,
    inputs,
    plain,
    signature,
)
from pyro_vae.distributions import check_on_support, scored_support
from pyro_vae.objectives.terms import WithTerms, collected_traces, elbo_terms
from pyro_vae.objectives.wrapper import layers

_log = logging.getLogger(__name__)

_GRAPHS = 8  # that one objective keeps
_REPEATS = 4  # graphs for the same arguments, where model or guide have changed
_PATIENCE = 100  # losses of a further shape or mode that are not compiled before it is

Kind = Literal["loss", "gradients"]


def compiled(elbo: ELBO) -> "Compiled":
    """The same objective, its loss and gradients compiled to one graph, for a plain ``SVI``.

    The first loss runs model and guide once as they are, which makes their parameters and holds
    observed values against their sites' supports; then loss and backward are traced to one FX
    graph, which Inductor compiles. From then on the graph runs in their stead: Pyro's handlers and
    its validation cost nothing, and no longer see the steps. Noise comes from torch's generators
    as it does uncompiled, so a seed gives the same steps, up to rounding. (A layer that draws
    noise into permuted memory, as dropout in attention does, gets the same numbers elsewhere; and
    before torch 2.13 Inductor may draw in another order, where a program draws more than once.)

    It serves any Pyro model and guide of static structure, which do the same whatever the numbers
    are:

    * Tensors and floats among the arguments are inputs of the graph, and so are parameters,
      buffers and all other tensors that model and guide hold. They may change from step to step:
      arguments by new ones, the others in place.
    * What has another shape, dtype or device, ints, strings and bools among the arguments, train
      and eval mode, and other numbers, parts and parameters in the modules that run have graphs
      of their own. The first is compiled at once, a further one when it has come a hundred
      times; until then, as an epoch's smaller last batch, it runs uncompiled. The last eight
      graphs are kept, and no more than four are made for the same arguments.
    * Numbers that model and guide find elsewhere, in closures and globals, are fixed at the trace.
    * Inside other handlers (``poutine.scale`` around a step, say) it runs uncompiled.

    A graph takes from a second to half a minute; Inductor keeps the code in a cache on disk, so
    that the next process takes a second or two. ``compile_seconds`` of the result says what it
    took, and so does the log of ``pyro_vae.objectives.compiled``, at level INFO.

    Source: in place of Pyro's ``Jit*_ELBO``, which rest on ``torch.jit.trace``.

    Raises:
        TypeError: `elbo` is no ELBO with a ``differentiable_loss``, or compiled already; at a
            loss, an argument that cannot be hashed.
        ValueError: At a loss, an argument that requires grad; at the first, an observed value off
            its site's support.
        NotStatic: At the first loss, model or guide read a tensor's value, or a module replaces a
            tensor of its own.
        NotCompiled: At the first loss, torch cannot compile what the program does.
        RuntimeError: A gradient is asked for gradients of its own (``create_graph=True``).

    Warns:
        UserWarning: Once, where there is no C++ compiler, and all runs uncompiled then; when the
            fourth graph for the same arguments has been made.
    """
    return Compiled(elbo)


class Compiled(WithTerms):
    """An ELBO whose loss and gradients are one compiled graph; see :func:`compiled`.

    Arguments:
        elbo: The ELBO to compile.
        strict: Whether a program that cannot be compiled is an error; else there is one warning,
            and the objective runs uncompiled.

    Attributes:
        compile_seconds: What tracing and compiling have taken so far.
    """

    def __init__(self, elbo: ELBO, strict: bool = True) -> None:
        if not isinstance(elbo, ELBO) or not hasattr(elbo, "differentiable_loss"):
            raise TypeError(
                f"elbo: got {elbo!r}, expected a pyro.infer.ELBO with a differentiable_loss, "
                "Trace_ELBO() for instance"
            )
        if isinstance(elbo, Compiled):
            raise TypeError("elbo: got one that is compiled already")
        super().__init__(elbo)
        self.strict = strict
        self.compile_seconds = 0.0
        self._given_up = False
        self._cache = _cache()

    def __getstate__(self) -> dict[str, Any]:
        # Compiled code stays in its process; a copy or a pickle makes its own.
        return vars(self) | {"_cache": _cache(), "compile_seconds": 0.0}

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, without gradients."""
        graph = self._graph("loss", model, guide, args, kwargs)
        if graph is None:
            return super().loss(model, guide, *args, **kwargs)
        return self._numbers(graph.run(args, kwargs)[0])

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number; adds its gradients to those of the parameters."""
        if not torch.is_grad_enabled():
            return self.loss(model, guide, *args, **kwargs)
        graph = self._graph("gradients", model, guide, args, kwargs)
        if graph is None:
            return super().loss_and_grads(model, guide, *args, **kwargs)
        values, *gradients = graph.run(args, kwargs)
        for parameter, gradient in zip(graph.leaves, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
        return self._numbers(values)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a tensor whose gradient is the estimator's, for a torch optimizer."""
        graph = self._graph("gradients", model, guide, args, kwargs)
        if graph is None:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        values, *gradients = graph.run(args, kwargs)
        self._numbers(values)
        return _WithGradients.apply(values[0], gradients, *graph.leaves)

    def _numbers(self, values: Tensor) -> float:
        loss, likelihood, kl = values.tolist()
        self.terms = likelihood, kl
        warn_if_nan(loss, "loss")
        return loss

    def _graph(
        self, kind: Kind, model: Any, guide: Any, args: Any, kwargs: Any
    ) -> "_LossGraph | None":
        """The graph for this call, traced and compiled if it is time; None where it is not."""
        if self._given_up or not _only_parameters_are_captured():
            return None
        *outer, inner = layers(self.elbo)
        if inner.vectorize_particles and inner.max_plate_nesting == math.inf:
            guess_plates(inner, model, guide, args, kwargs)  # as its first loss would
        numbers = tuple(map(plain, (*outer, inner)))
        key = (kind, model, guide, signature(args, kwargs), ambient(), numbers)

        def make() -> _LossGraph:
            return self._make(kind, model, guide, args, kwargs)

        def holds(graph: _LossGraph) -> bool:
            return graph.holds() and (graph.is_bound() or graph.bind(args, kwargs))

        before = self._cache.made[key]
        try:
            graph = self._cache.get(key, key[:3], make, inputs(args, kwargs), holds)
        except NotCompiled as error:
            if self.strict:
                raise
            self._given_up = True
            warnings.warn(f"the objective runs uncompiled: {error}", stacklevel=4)
            return None
        if before < self._cache.made[key] == _REPEATS:
            warnings.warn(
                f"compiled: {_REPEATS} graphs were made for the same arguments, as model or guide "
                "keep changing (an attribute, a part); further changes run uncompiled. Numbers "
                "that change belong into the arguments, or into tensors that change in place",
                stacklevel=4,
            )
        if graph is not None:
            graph.emit_parameters()
        return graph

    def _make(self, kind: Kind, model: Any, guide: Any, args: Any, kwargs: Any) -> "_LossGraph":
        start = time.perf_counter()
        graph = _LossGraph(kind, self.elbo, model, guide, args, kwargs)
        seconds = time.perf_counter() - start
        self.compile_seconds += seconds
        _log.info("compiled a graph of %d nodes in %.1f s", graph.size, seconds)
        return graph


def _cache() -> "Cache[_LossGraph]":
    return Cache(_GRAPHS, _PATIENCE, eager=True, repeats=_REPEATS, evicts=True)


class _LossGraph(Graph):
    """The loss of a model and guide as a graph, alone or with its gradients.

    It gives ``[loss, E_q log p(x|z), sampled KL]`` as one tensor, then the leaves' gradients.

    Attributes:
        leaves: The tensors to which gradients go.
    """

    def __init__(
        self, kind: Kind, elbo: ELBO, model: Any, guide: Any, args: Any, kwargs: Any
    ) -> None:
        self.leaves: list[Tensor] = []

        def rehearse(*args: Any, **kwargs: Any) -> list[tuple[Trace, Trace]]:
            with collected_traces(elbo) as traces:
                elbo.loss(model, guide, *args, **kwargs)
            return traces

        def function(*args: Any, **kwargs: Any) -> list[Tensor]:
            with collected_traces(elbo) as traces, torch.set_grad_enabled(kind == "gradients"):
                method = elbo.loss if kind == "loss" else elbo.differentiable_loss
                loss = torch.as_tensor(method(model, guide, *args, **kwargs))
                likelihood, kl = elbo_terms(traces, elbo.num_particles)
                values = torch.stack([v.detach().to(loss) for v in (loss, likelihood, kl)])
                self.leaves = _leaves(loss)
                return [values, *_gradients(loss, self.leaves)]

        owners = [getattr(program, "__self__", program) for program in (model, guide)]
        classes = {cls for layer in layers(elbo) for cls in type(layer).__mro__}
        program = Program(
            function,
            rehearse,
            _check_supports,
            [owner for owner in owners if isinstance(owner, nn.Module)],
            [sys.modules[cls.__module__] for cls in classes],
        )
        super().__init__(program, args, kwargs)


def _check_supports(traces: list[tuple[Trace, Trace]]) -> None:
    """Raises ValueError unless observed values lie where their sites score them."""
    for model_trace, _ in traces:
        for name, site in model_trace.nodes.items():
            if site["type"] == "sample" and site["is_observed"] and site["mask"] is None:
                check_on_support(name, site["value"], scored_support(site["fn"]))


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
    """Gradients with the strides of the leaves, each in memory of its own."""
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


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph
            raise RuntimeError(
                "compiled: a compiled loss has gradients, but no gradients of gradients; use the "
                "objective without compiled()"
            )
        return None, None, *(outer * gradient for gradient in ctx.gradients)


def _only_parameters_are_captured() -> bool:
    """Whether no effect handler in force would change the step; SVI's own only collects names."""
    return all(
        isinstance(handler, poutine.trace_messenger.TraceMessenger) and handler.param_only
        for handler in handlers()
    )
