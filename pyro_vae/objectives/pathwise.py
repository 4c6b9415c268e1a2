"""Importance-weighted objectives with pathwise gradients, which reach the guide through z."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.util import warn_if_nan
from torch import Tensor
from torch.distributions import Transform, TransformedDistribution

from pyro_vae.objectives.importance_weighted import ImportanceWeightedELBO

__all__ = ["PathwiseELBO", "Surrogate"]


@dataclass
class Surrogate:
    """The terms whose gradients add up to that of a :class:`PathwiseELBO`.

    Attributes:
        direct: A scalar. Its gradient reaches the parameters of the densities of model and guide.
            Its derivative by the model's z is multiplied by `ratio` and reaches the guide through
            z.
        path: A scalar. Its gradient reaches the guide's parameters through z alone.
        ratio: A tensor of shape ``(num_particles, ...)``, or a number.
    """

    direct: Tensor
    path: Tensor
    ratio: Tensor | float = 1.0


class PathwiseELBO(ImportanceWeightedELBO):
    r"""A bound with separate gradients of the model, of the guide's density, and through z.

    The guide's parameters :math:`\phi` change a bound through the draw :math:`z_\phi`, and through
    the density :math:`\log q_\phi(z)`. The gradient through the density is zero in the mean for
    the ELBO, and can be rewritten as one through :math:`z_\phi` for other bounds. Leaving it out
    removes its noise. The model's parameters keep their whole gradient, also those that the model
    shares with the guide (``VampPrior``). Latent sites may depend on each other.

    Arguments:
        num_particles, bound, linear, static: See :class:`ImportanceWeightedELBO`.
        surrogate: Maps log p(x, z) and log q(z|x), each of shape ``(num_particles, ...)``, to the
            terms of the gradient.
    """

    def __init__(
        self,
        num_particles: int,
        bound: Callable[[Tensor], Tensor],
        surrogate: Callable[[Tensor, Tensor], Surrogate],
        linear: bool = False,
        *,
        static: bool = True,
    ) -> None:
        super().__init__(num_particles, bound, linear, static=static)
        self.surrogate = surrogate

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        model_trace, guide_trace = self._vectorized_traces(model, guide, args, kwargs)
        log_p, log_q = self._log_probs(model_trace, guide_trace)
        loss = -self.bound((log_p - log_q).detach()).sum()
        surrogate = self.surrogate(log_p, log_q)
        direct = surrogate.direct
        crossings = list(_crossings(guide_trace).values())
        if crossings:
            ends = [end for crossing in crossings for end in crossing.ends]
            partial = torch.autograd.grad(
                surrogate.path, ends, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for crossing, model_part, guide_part in zip(
                crossings, partial[::2], partial[1::2], strict=True
            ):
                direct = direct + ((model_part + guide_part) * crossing.start).sum()
                crossing.gate.ratio = self._ratio(surrogate.ratio, crossing.event_dim)
        warn_if_nan(loss, "loss")
        return loss - (direct - direct.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return super()._get_trace(model, _Cross()(guide), args, kwargs)

    def _for_model(self, guide_trace: Trace) -> Trace:
        trace = guide_trace.copy()
        for name, crossing in _crossings(guide_trace).items():
            trace.nodes[name] = trace.nodes[name] | {"value": crossing.values[0]}
        return trace

    def _ratio(self, ratio: Tensor | float, event_dim: int) -> Tensor | float:
        """A ratio for each weight, in a shape that broadcasts against z."""
        if isinstance(ratio, Tensor):
            ratio = ratio if self.num_particles > 1 else ratio.squeeze(0)
            return ratio[(..., *[None] * event_dim)]
        return ratio


class _Gate:
    """The factor of the model's gradient at a crossing; None stops all gradients."""

    ratio: Tensor | float | None = None


class _Crossing:
    """The point where a latent passes from its draw to the model and to later sites of the guide.

    No gradient passes until the gate has a ratio. Until then, a derivative by one of the ends is a
    partial one: all other latents are constant, also those that depend on this one.

    Arguments:
        start: The draw.
        event_dim: Number of event dimensions of the draw.
        transforms: Transforms from the draw to the latent. They have no parameters, so the
            crossing may lie before them. It has to, because no derivative passes a saturated
            sigmoid.
    """

    def __init__(self, start: Tensor, event_dim: int, transforms: Sequence[Transform]) -> None:
        self.start = start
        self.event_dim = event_dim
        # The autograd graph refers to the gate only. A reference to the crossing, which holds
        # the graph, would be a cycle that stays in memory until the garbage collector runs.
        self.gate = _Gate()
        self.ends: tuple[Tensor, Tensor] = _Fork.apply(start, self.gate)
        # The guide's end comes last: a transform may cache its last call, and it is the guide's
        # density that uses the cache.
        self.values = tuple(_through(transforms, end) for end in self.ends)


def _through(transforms: Sequence[Transform], value: Tensor) -> Tensor:
    for transform in transforms:
        value = transform(value)
    return value


class _Fork(torch.autograd.Function):
    """Copies a value for the model and for the guide, with different gradients."""

    @staticmethod
    def forward(value: Tensor, gate: _Gate) -> tuple[Tensor, Tensor]:
        return value.clone(), value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Gate], output: Any) -> None:
        ctx.gate = inputs[1]

    @staticmethod
    def backward(ctx: Any, by_model: Tensor, by_guide: Tensor) -> tuple[Tensor | None, None]:
        ratio = ctx.gate.ratio
        return (None if ratio is None else by_model * ratio + by_guide), None


class _Cross(Messenger):
    """Draws a guide's latents and puts a crossing behind each of them."""

    def _pyro_sample(self, msg: Any) -> None:
        done = msg["done"] or msg["is_observed"] or msg["value"] is not None
        if done or not getattr(msg["fn"], "has_rsample", False):
            return
        fn: Any = msg["fn"]
        transforms: Sequence[Transform] = ()
        if isinstance(fn, TransformedDistribution) and all(
            getattr(transform, "is_fixed", False) for transform in fn.transforms
        ):
            fn, transforms = fn.base_dist, fn.transforms
        start = fn.rsample(*msg["args"], **msg["kwargs"])
        if start.requires_grad:
            crossing = _Crossing(start, len(fn.event_shape), transforms)
            msg["infer"] = {**msg["infer"], _KEY: crossing}
            msg["value"] = crossing.values[1]
        else:
            msg["value"] = _through(transforms, start)
        msg["done"] = True


_KEY = "pyro_vae.crossing"


def _crossings(guide_trace: Trace) -> dict[str, _Crossing]:
    return {
        name: site["infer"][_KEY]
        for name, site in guide_trace.nodes.items()
        if site["type"] == "sample" and _KEY in site["infer"]
    }
