"""Bounds whose gradient treats model and guide apart, and the paths by which z moves them."""

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


@dataclass
class Surrogate:
    """What the gradient of a :class:`PathwiseELBO` is made of.

    Attributes:
        direct: Its gradient goes to the parameters that stand in it, of model and guide; that by
            the model's z is multiplied by `ratio`, and goes on to the guide's.
        path: Its gradient goes by way of z alone, to the guide's parameters.
        ratio: Of shape ``(num_particles, ...)``, or a number.
    """

    direct: Tensor
    path: Tensor
    ratio: Tensor | float = 1.0


class PathwiseELBO(ImportanceWeightedELBO):
    r"""A bound whose gradient treats model and guide apart, and the ways by which z moves it.

    A guide's parameters :math:`\phi` move a bound by way of :math:`z_\phi`, and directly where
    they stand in :math:`\log q_\phi(z)`. The latter is zero in the mean for the ELBO and can be
    made part of the former for others; leaving it out takes its noise away. Parameters of the
    model keep all of their gradient, those that it shares with the guide (``VampPrior``) too.
    Latent sites may depend on each other.

    Arguments:
        num_particles, bound, linear: As of :class:`ImportanceWeightedELBO`.
        surrogate: What the gradient is made of, from log p(x, z) and log q(z|x), each of shape
            ``(num_particles, ...)``.
    """

    def __init__(
        self,
        num_particles: int,
        bound: Callable[[Tensor], Tensor],
        surrogate: Callable[[Tensor, Tensor], Surrogate],
        linear: bool = False,
    ) -> None:
        super().__init__(num_particles, bound, linear)
        self.surrogate = surrogate

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a tensor whose gradient is the estimator's."""
        model_trace, guide_trace = self._trace_pair(model, guide, args, kwargs)
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
        """A ratio for each weight beside a value of z."""
        if isinstance(ratio, Tensor):
            ratio = ratio if self.num_particles > 1 else ratio.squeeze(0)
            return ratio[(..., *[None] * event_dim)]
        return ratio


class _Gate:
    """What a gradient is multiplied by where it crosses; None lets none through."""

    ratio: Tensor | float | None = None


class _Crossing:
    """Where a latent value leaves the guide for the model, and for what follows in the guide.

    Until its gate has a ratio no gradient crosses: then partial derivatives by its ends are those
    that hold all other latents fixed, whatever these depend on.

    Arguments:
        start: What was drawn.
        event_dim: Dimensions of one draw.
        transforms: What makes the latent value of it. They have no parameters, so that it is the
            same to cross before them; and behind a saturated sigmoid there is no derivative left.
    """

    def __init__(self, start: Tensor, event_dim: int, transforms: Sequence[Transform]) -> None:
        self.start = start
        self.event_dim = event_dim
        # The graph keeps the gate alone: with all of this it would keep itself, as garbage.
        self.gate = _Gate()
        self.ends: tuple[Tensor, Tensor] = _Fork.apply(start, self.gate)
        # The guide's last: a transform that keeps the y of its last value then scores by that.
        self.values = tuple(_through(transforms, end) for end in self.ends)


def _through(transforms: Sequence[Transform], value: Tensor) -> Tensor:
    for transform in transforms:
        value = transform(value)
    return value


class _Fork(torch.autograd.Function):
    """The same value for the model and for the guide, whose gradients differ."""

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
    """Draws a guide's latents, and lets the trace see them beyond their crossings."""

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
