"""A Pyro objective whose losses are compiled graphs, for a plain ``pyro.infer.SVI``."""

import logging
import math
import time
import warnings
from collections import Counter
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.runtime import _PYRO_STACK
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae import inductor
from pyro_vae.guards import ambient, inputs, plain, signature
from pyro_vae.recording import Recorded, layers
from pyro_vae.tracing import Graph, Kind, NotCompiled

_log = logging.getLogger(__name__)

_GRAPHS = 8  # that one objective keeps
_REPEATS = 4  # graphs for the same arguments, where model or guide have changed
_PATIENCE = 100  # losses of a further shape or mode that are not compiled before it is


class Compiled(Recorded):
    """An ELBO whose loss and gradients are one compiled graph; see :func:`objectives.compiled`.

    Arguments:
        elbo: The ELBO to compile.
        strict: Whether what cannot be compiled is an error; else there is one warning, and the
            objective runs uncompiled.

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
        self._given_up = False
        self.compile_seconds = 0.0
        self._graphs: dict[Any, list[Graph]] = {}
        self._waiting: Counter[Any] = Counter()
        self._made: Counter[Any] = Counter()

    def __getstate__(self) -> dict[str, Any]:
        # Compiled code stays in its process; a copy or a pickle makes its own.
        empty = {"_graphs": {}, "_waiting": Counter(), "_made": Counter(), "compile_seconds": 0.0}
        return vars(self) | empty

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

    def _graph(self, kind: Kind, model: Any, guide: Any, args: Any, kwargs: Any) -> "Graph | None":
        """The graph for this call, traced and compiled if it is time; None where it is not."""
        if self._given_up or not _only_parameters_are_captured():
            return None
        *outer, inner = layers(self.elbo)
        if inner.vectorize_particles and inner.max_plate_nesting == math.inf:
            inner._guess_max_plate_nesting(model, guide, args, kwargs)  # as its first loss would
        numbers = tuple(map(plain, (*outer, inner)))
        key = (kind, model, guide, signature(args, kwargs), ambient(), numbers)
        known = self._graphs.get(key, [])
        for graph in known:
            if graph.holds() and (graph.is_bound() or graph.bind(args, kwargs)):
                graph.emit_parameters()
                self._graphs[key] = self._graphs.pop(key)  # the last used is the last to go
                return graph
        if len(self._graphs) >= _GRAPHS or any(k[:3] == key[:3] for k in self._graphs):
            # One shape or mode has its graph. Another, the last batch of an epoch for instance,
            # gets one when it has come often enough to repay the compilation; and so does a model
            # that is another function at each step.
            self._waiting[key] += 1
            if self._waiting[key] <= _PATIENCE:
                while len(self._waiting) > _GRAPHS:
                    del self._waiting[next(iter(self._waiting))]
                return None
            del self._waiting[key]
        if self._made[key] >= _REPEATS or not inductor.can_compile(inputs(args, kwargs)):
            return None
        start = time.perf_counter()
        try:
            graph = Graph(kind, self.elbo, model, guide, args, kwargs)
        except NotCompiled as error:
            if self.strict:
                raise
            self._given_up = True
            warnings.warn(f"the objective runs uncompiled: {error}", stacklevel=4)
            return None
        self._made[key] += 1
        if self._made[key] == _REPEATS:
            warnings.warn(
                f"compiled: {_REPEATS} graphs were made for the same arguments, as model or guide "
                "keep changing (an attribute, a part); further changes run uncompiled. Numbers "
                "that change belong into the arguments, or into tensors that change in place",
                stacklevel=4,
            )
        seconds = time.perf_counter() - start
        self.compile_seconds += seconds
        _log.info("compiled a graph of %d nodes in %.1f s", graph.size, seconds)
        self._graphs[key] = [*known[-1:], graph]  # one for train mode, one for eval
        while len(self._graphs) > _GRAPHS:
            oldest = next(iter(self._graphs))
            del self._graphs[oldest], self._made[oldest]
        graph.emit_parameters()
        return graph


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
    """Whether no handler is around the step that would have a say in it, but SVI's own."""
    return all(
        isinstance(handler, poutine.trace_messenger.TraceMessenger) and handler.param_only
        for handler in _PYRO_STACK
    )
