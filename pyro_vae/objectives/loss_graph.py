"""The graph of a loss and its gradients, for one batch or for one step of an epoch."""

import sys
from typing import Any, Literal, Protocol

import torch
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.compile import Graph, Program, in_library
from pyro_vae.distributions import check_on_support, scored_support
from pyro_vae.objectives.terms import collected_traces, elbo_terms
from pyro_vae.objectives.wrapper import layers

__all__ = ["Kind", "LossGraph", "Taking"]

Kind = Literal["loss", "gradients"]
"""What a graph computes: the loss alone, or its gradients too."""


class Taking(Protocol):
    """How a step takes its batch from tensors that hold more, such as all data of an epoch.

    Both methods become part of the graph. Two objects that do the same are equal, and have the
    same hash.
    """

    def batch(self, *args: Tensor) -> tuple[Tensor, ...]:
        """The batch of the next step, from the arguments of the graph."""
        ...

    def count(self, values: Tensor, *args: Tensor) -> None:
        """Adds a step's loss and terms to sums among the arguments, in place."""
        ...


class LossGraph(Graph):
    """The graph of a loss, with or without its gradients.

    It returns ``[loss, E_q log p(x|z), sampled KL]`` as one tensor, followed by the part of each
    latent site in the KL if there are several, and then the gradients.

    Arguments:
        kind: What it computes.
        elbo: The objective.
        model, guide: The programs.
        args, kwargs: Examples of the arguments.
        taking: How a step takes its batch from the arguments; None if they are the batch.
        by_inductor: See :class:`Graph`.

    Attributes:
        leaves: The tensors that have gradients.
        parts: The latent sites that have a part of the KL each.
    """

    def __init__(
        self,
        kind: Kind,
        elbo: ELBO,
        model: Any,
        guide: Any,
        args: Any,
        kwargs: Any,
        taking: Taking | None = None,
        by_inductor: bool = True,
    ) -> None:
        self.leaves: list[Tensor] = []
        self.parts: tuple[str, ...] = ()

        def rehearse(*args: Any, **kwargs: Any) -> list[tuple[Trace, Trace]]:
            args = taking.batch(*args) if taking else args
            with collected_traces(elbo) as traces:
                elbo.loss(model, guide, *args, **kwargs)
            return traces

        def function(*args: Any, **kwargs: Any) -> list[Tensor]:
            with collected_traces(elbo) as traces, torch.set_grad_enabled(kind == "gradients"):
                method = elbo.loss if kind == "loss" else elbo.differentiable_loss
                batch = taking.batch(*args) if taking else args
                loss = torch.as_tensor(method(model, guide, *batch, **kwargs))
                likelihood, kl, parts = elbo_terms(elbo, traces)
                self.parts = tuple(parts)
                terms = loss, likelihood, kl, *parts.values()
                values = torch.stack([v.detach().to(loss) for v in terms])
                if taking:
                    taking.count(values, *args)
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
            [model, guide, *(each for each in layers(elbo) if not in_library(type(each)))],
        )
        super().__init__(program, args, kwargs, by_inductor)


def _check_supports(traces: list[tuple[Trace, Trace]]) -> None:
    """Raises ValueError if an observed value is off the set that its site scores."""
    for model_trace, _ in traces:
        for name, site in model_trace.nodes.items():
            if site["type"] == "sample" and site["is_observed"] and site["mask"] is None:
                check_on_support(name, site["value"], scored_support(site["fn"]))


def _leaves(loss: Tensor) -> list[Tensor]:
    """The leaves of a loss's autograd graph, which are the tensors that have gradients."""
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
    """The gradients of a loss, with the strides of the leaves and without shared memory."""
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
