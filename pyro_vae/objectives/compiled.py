"""Compiled objectives for a plain ``pyro.infer.SVI``: one graph for loss and gradients."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae.compat import handlers, intercepted
from pyro_vae.compile import (
    Cache,
    NotCompiled,
    NotYet,
    RandomState,
    ambient,
    inputs,
    plain,
    signature,
)
from pyro_vae.objectives.loss_graph import Kind, LossGraph, Taking
from pyro_vae.objectives.terms import WithTerms
from pyro_vae.objectives.traits import check_elbo, no_graph, traits
from pyro_vae.objectives.wrapper import guess_plates, layers
from pyro_vae.utils.warn import warn

__all__ = ["Compiled", "compiled"]

_log = logging.getLogger(__name__)

_GRAPHS = 8  # The most graphs that one objective keeps.
_REPEATS = 4  # The most graphs for the same arguments, after changes of model or guide.
_PATIENCE = 100  # Uncompiled losses of a further shape or mode before its graph is made.


def compiled(elbo: ELBO) -> "Compiled":
    """Compiles the loss and the gradient of an objective to one graph, for a plain ``SVI``.

    The value and the gradient are those of `elbo`, up to rounding. The first loss runs model and
    guide three times uncompiled, which creates their parameters, finds what they read, and checks
    observed values against the supports of their sites. Then loss and backward are traced to one
    FX graph, which Inductor compiles. Later losses run the graph. They skip Pyro's handlers and
    validation.

    The random numbers come from torch's generators, as in uncompiled code, so a seed gives the
    same steps up to rounding. There are two exceptions: a layer that draws noise into permuted
    memory, such as dropout in attention, and programs with more than one draw before torch 2.13.

    Model and guide can be any Pyro programs of static structure, which run the same operations
    whatever the values of tensors are:

    * Tensors and floats among the arguments are inputs of the graph. So are parameters, buffers
      and all other tensors that model and guide use. Arguments may change from step to step; the
      other tensors may change in place.
    * There is one graph for each combination of shapes, dtypes and devices, of ints, strings and
      bools among the arguments, of train and eval mode, and of the numbers, parts and parameters
      in the modules that run. The first graph is compiled at once, and a further one after a
      hundred losses; until then, these losses run uncompiled, such as those of an epoch's smaller
      last batch. The last eight graphs are kept. At most four are made for the same arguments.
    * Other state that their code names is compared before each loss: numbers, strings, functions,
      containers, arrays and objects, in attributes, closures, global variables and classes. If it
      has changed, the loss runs uncompiled, and in time has a graph of its own.
    * They have no hooks, change nothing but tensors, and draw random numbers of torch's global
      generators alone. What a graph cannot do is listed in ``docs/compilation.md``.
    * Inside further handlers, such as ``poutine.scale`` around a step, losses run uncompiled.

    Compiling a graph takes from a second to half a minute, and less in later processes, because
    Inductor caches the code on disk. The attribute ``compile_seconds`` has the time, and the
    logger ``pyro_vae.objectives.compiled`` writes it at level INFO.

    Source: this package. Pyro's ``Jit*_ELBO`` use ``torch.jit.trace`` for the same purpose.

    Arguments:
        elbo: A Pyro ELBO with a ``differentiable_loss``.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `elbo` has no ``differentiable_loss``, is compiled already, or is a
            ``TraceEnum_ELBO`` of Pyro, which reads values, as :func:`enumerated` does not. At a
            loss: an argument cannot be hashed.
        ValueError: At a loss: an argument requires grad. At the first loss: an observed value is
            off its site's support.
        NotStatic: At the first loss: model, guide or objective reads a tensor's value, a module
            replaces one of its tensors, or the program does or reads what a graph cannot follow.
        NotCompiled: At the first loss: torch cannot compile the program.
        RuntimeError: A gradient is taken with ``create_graph=True``.

    Warns:
        UserWarning: There is no C++ compiler, so all losses run uncompiled; or the fourth graph
            for the same arguments was made.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> objective = objectives.compiled(objectives.trace_elbo())
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), loss=objective)
        >>> objective.compile_seconds  # The first step compiles.
        0.0
    """
    return Compiled(elbo)


class Compiled(WithTerms):
    """An ELBO whose loss and gradient are one compiled graph; see :func:`compiled`.

    Arguments:
        elbo: The ELBO to compile.
        strict: Raises an error if a program cannot be compiled. If False, the objective warns once
            and runs uncompiled.
        by_inductor: See :class:`Graph`.

    Attributes:
        compile_seconds: Seconds spent so far on tracing and compiling.
    """

    def __init__(self, elbo: ELBO, strict: bool = True, by_inductor: bool = True) -> None:
        if not isinstance(elbo, ELBO) or not hasattr(elbo, "differentiable_loss"):
            raise TypeError(
                f"elbo: got {elbo!r}, expected a pyro.infer.ELBO with a differentiable_loss, "
                "such as Trace_ELBO()"
            )
        *_, inner = layers(elbo)
        check_elbo(inner, "elbo")
        if reason := no_graph(inner):
            raise TypeError(
                f"elbo: got {type(inner).__name__}, which {reason}, so that compiled code would "
                "take another loss; expected both"
            )
        if isinstance(inner, TraceEnum_ELBO) and not traits(inner).is_static:
            raise TypeError(
                f"elbo: got {type(inner).__name__}, which reads the values of tensors to sum over "
                "discrete latents, expected an objective that does not: objectives.enumerated()"
            )
        if isinstance(elbo, Compiled):
            raise TypeError("elbo: got an objective that is compiled already, expected another")
        super().__init__(elbo)
        self.strict = strict
        self.by_inductor = by_inductor
        self.compile_seconds = 0.0
        self._given_up = False
        self._cache = _cache()

    def __getstate__(self) -> dict[str, Any]:
        # Compiled code belongs to its process, so a copy or a pickle starts without any.
        return vars(self) | {"_cache": _cache(), "compile_seconds": 0.0}

    def code_state(self, model: Any, guide: Any) -> dict[str, Any]:
        """For which arguments these programs run compiled, as values of JSON."""

        def own(key: Any) -> bool:
            return key[1:3] == (model, guide)

        return {"given_up": self._given_up, "codes": self._cache.state(own)}

    def load_code_state(self, state: Mapping[str, Any]) -> None:
        """Lets the same arguments run compiled from now on, and others not, as in a state."""
        self._given_up = state["given_up"]
        self._cache.load_state(state["codes"])

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats, without gradients."""
        graph = self._graph("loss", model, guide, args, kwargs)
        if graph is None:
            return super().loss(model, guide, *args, **kwargs)
        found = self._run(graph, args, kwargs)
        if found is None:
            return super().loss(model, guide, *args, **kwargs)
        return self._numbers(graph, found[0])

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats; adds its gradient to those of the parameters."""
        if not torch.is_grad_enabled():
            return self.loss(model, guide, *args, **kwargs)
        graph = self._graph("gradients", model, guide, args, kwargs)
        if graph is None:
            return super().loss_and_grads(model, guide, *args, **kwargs)
        found = self._run(graph, args, kwargs)
        if found is None:
            return super().loss_and_grads(model, guide, *args, **kwargs)
        values, *gradients = found
        for parameter, gradient in zip(graph.leaves, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
        return self._numbers(graph, values)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        graph = self._graph("gradients", model, guide, args, kwargs)
        if graph is None:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        found = self._run(graph, args, kwargs)
        if found is None:
            return super().differentiable_loss(model, guide, *args, **kwargs)
        values, *gradients = found
        self._numbers(graph, values)
        return _WithGradients.apply(values[0], gradients, *graph.leaves)

    def _run(self, graph: LossGraph, args: Any, kwargs: Any) -> list[Tensor] | None:
        """Runs a graph; None if its first run fails and the objective need not be compiled."""
        try:
            return graph.run(args, kwargs)
        except Exception as error:
            if graph.has_run:
                raise
            self.give_up(error)
            return None

    def give_up(self, error: BaseException) -> None:
        """Runs uncompiled from now on. A fault of the program is raised there again.

        Arguments:
            error: Why the program cannot be compiled; it is raised if the objective is strict.

        Warns:
            UserWarning: The objective is not strict.
        """
        if self.strict:
            raise error
        self._given_up = True
        kind = "" if isinstance(error, NotCompiled) else f"{type(error).__name__}: "
        text = str(error).partition("\n")[0]
        warn(f"the objective runs uncompiled: {kind}{text}")

    def _numbers(self, graph: LossGraph, values: Tensor) -> float:
        loss, likelihood, kl, *parts = values.tolist()
        self.terms = likelihood, kl
        self.parts = dict(zip(graph.parts, parts, strict=True))
        warn_if_nan(loss, "loss")
        return loss

    def step_graph(
        self,
        model: Any,
        guide: Any,
        args: tuple[Tensor, ...],
        taking: Taking,
        uses: int,
        by_inductor: bool = True,
    ) -> LossGraph | None:
        """The graph of a training step that takes its batch from its arguments.

        Arguments:
            model, guide: The programs.
            args: The arguments of the graph, for `taking`.
            taking: How a step takes its batch.
            uses: How many steps will be taken.
            by_inductor: See :class:`Graph`.

        Returns:
            The graph; None if steps run uncompiled.

        Raises:
            Exception: Whatever tracing or compiling raises.
        """
        return self._graph("gradients", model, guide, args, {}, (taking, by_inductor), uses)

    def _graph(
        self,
        kind: Kind,
        model: Any,
        guide: Any,
        args: Any,
        kwargs: Any,
        how: tuple[Taking | None, bool] | None = None,
        uses: int = 1,
    ) -> LossGraph | None:
        """The graph for this call, which may be made now; None if the call runs uncompiled."""
        if self._given_up or intercepted() or not _only_parameters_are_captured():
            return None
        *outer, inner = layers(self.elbo)
        guess_plates(inner, model, guide, args, kwargs)
        numbers = tuple(map(plain, (*outer, inner)))
        how = (None, self.by_inductor) if how is None else how
        try:
            key = (kind, model, guide, signature(args, kwargs), ambient(), numbers, how)
            hash(key)
        except TypeError as error:
            self.give_up(error)
            return None

        def make() -> LossGraph:
            random = RandomState(inputs(args, kwargs))
            try:
                return self._make(kind, model, guide, args, kwargs, *how)
            except Exception:
                random.restore()  # The loss may be computed uncompiled now.
                raise

        def holds(graph: LossGraph) -> bool:
            return graph.holds() and (graph.is_bound() or graph.bind(args, kwargs))

        before = self._cache.made[key]
        try:
            graph = self._cache.get(key, key[:3], make, inputs(args, kwargs), holds, uses)
        except NotYet:
            return None
        except Exception as error:
            if how[0] is not None:
                raise
            self.give_up(error)
            return None
        if before < self._cache.made[key] == _REPEATS:
            warn(
                f"compiled: made {_REPEATS} graphs for the same arguments, because attributes or "
                "parts of model or guide keep changing, so further changes run uncompiled; pass "
                "changing numbers as arguments, or keep them in tensors that change in place"
            )
        if graph is not None:
            graph.emit_parameters()
        return graph

    def _make(self, kind: Kind, model: Any, guide: Any, *rest: Any) -> LossGraph:
        start = time.perf_counter()
        graph = LossGraph(kind, self.elbo, model, guide, *rest)
        seconds = time.perf_counter() - start
        self.compile_seconds += seconds
        _log.info("compiled a graph of %d nodes in %.1f s", graph.size, seconds)
        return graph


def _cache() -> Cache[LossGraph]:
    return Cache(
        _GRAPHS, _PATIENCE, eager=True, repeats=_REPEATS, evicts=True, described=_described
    )


def _described(key: Any) -> str:
    """A key, or a kind, without model and guide, which belong to a process."""
    kind, _, _, *rest = key
    return repr((kind, *rest))


class _WithGradients(torch.autograd.Function):
    """Attaches gradients that are known already to a loss."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        if torch.is_grad_enabled():  # create_graph
            raise RuntimeError(
                "create_graph: got True for a compiled loss, which has no gradients of gradients, "
                "expected False; use the objective without compiled()"
            )
        return None, None, *(outer * gradient for gradient in ctx.gradients)


def _only_parameters_are_captured() -> bool:
    """Whether no active effect handler could change the step. SVI's own collects parameters."""
    return all(
        isinstance(handler, poutine.trace_messenger.TraceMessenger) and handler.param_only
        for handler in handlers()
    )
