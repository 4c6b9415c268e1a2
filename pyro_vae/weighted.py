"""Objectives made of importance weights: plain bounds, and gradients that part model and guide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import get_dependent_plate_dims, torch_item
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled, prune_subsample_sites
from pyro.util import check_if_enumerated, check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor
from torch.distributions import Transform, TransformedDistribution

from pyro_vae.divergences import describe


class WeightedELBO(ELBO):
    r"""A negative bound that is a function of log-weights, :math:`-\sum_n B(\log w_{1n}, \dots)`.

    The weights are :math:`w_k = p(x, z_k) / q(z_k|x)` for each element of the plates that all
    sites are in, a VAE's examples; particles are vectorized. The gradient is that of the bound
    itself, and so the objective is right for reparameterized guides alone; others raise.

    Arguments:
        num_particles: Number of weights for each element.
        bound: B, from log-weights of shape ``(num_particles, ...)`` to the bound, ``(...)``.
        linear: Whether the bound is one where log-weights are scaled, by ``poutine.scale`` or a
            subsampled plate; else that raises.
    """

    def __init__(
        self, num_particles: int, bound: Callable[[Tensor], Tensor], linear: bool = False
    ) -> None:
        super().__init__(num_particles=num_particles, vectorize_particles=num_particles > 1)
        self.bound = bound
        self.linear = linear

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats, summed over examples."""
        log_p, log_q = self._log_probs(*self._trace_pair(model, guide, args, kwargs))
        loss = -self.bound(log_p - log_q).sum()
        warn_if_nan(loss, "loss")
        return torch_item(loss)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a tensor whose gradient is the estimator's."""
        log_p, log_q = self._log_probs(*self._trace_pair(model, guide, args, kwargs))
        loss = -self.bound(log_p - log_q).sum()
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number; adds its gradients to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def _trace_pair(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        (pair,) = self._get_traces(model, guide, args, kwargs)
        return pair

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=self._for_model(guide_trace))
        model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        model_trace, guide_trace = map(prune_subsample_sites, (model_trace, guide_trace))
        self._check(model_trace, guide_trace)
        for trace in (model_trace, guide_trace):
            trace.compute_log_prob()
            if is_validation_enabled():
                for site in trace.nodes.values():
                    if site["type"] == "sample":
                        check_site_shape(site, self.max_plate_nesting)
        return model_trace, guide_trace

    def _for_model(self, guide_trace: Trace) -> Trace:
        """The trace whose values the model gets."""
        return guide_trace

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Raises ValueError where the weights of these traces would not be those of the bound."""
        if is_validation_enabled():
            check_if_enumerated(guide_trace)
        for name in guide_trace.stochastic_nodes:
            q = guide_trace.nodes[name]["fn"]
            if not q.has_rsample:
                raise ValueError(
                    f'site "{name}": the guide\'s {describe(q)} has no rsample, expected a '
                    "reparameterized guide; use objectives.trace_elbo() instead"
                )
        for name in model_trace.stochastic_nodes:
            if name not in guide_trace.nodes:
                raise ValueError(
                    f'site "{name}": latent in the model, and not in the guide, expected a guide '
                    "that draws it: else it would be weighed twice"
                )
        for trace in () if self.linear else (model_trace, guide_trace):
            for name, site in trace.nodes.items():
                scale = site["scale"] if site["type"] == "sample" else 1
                if isinstance(scale, Tensor) or scale != 1:
                    raise ValueError(
                        f'site "{name}": its log-probability is scaled by {scale}, expected no '
                        "poutine.scale and no subsampled plate: the log of a mean of such weights "
                        "is no bound"
                    )

    def _log_probs(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor]:
        """log p(x, z) and log q(z|x), of shape ``(num_particles, ...)``, plates kept in place."""
        dims = get_dependent_plate_dims(model_trace.nodes.values())
        sums = []
        for trace in (model_trace, guide_trace):
            total: Tensor | float = 0.0
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    log_prob = site["log_prob"]
                    for dim in dims:
                        if -dim <= log_prob.dim():
                            log_prob = log_prob.sum(dim, keepdim=True)
                    total = total + log_prob
            total = torch.as_tensor(total)
            sums.append(total if self.num_particles > 1 else total.unsqueeze(0))
        return sums[0], sums[1]


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


class PathwiseELBO(WeightedELBO):
    r"""A bound whose gradient treats model and guide apart, and the ways by which z moves it.

    A guide's parameters :math:`\phi` move a bound by way of :math:`z_\phi`, and directly where
    they stand in :math:`\log q_\phi(z)`. The latter is zero in the mean for the ELBO and can be
    made part of the former for others; leaving it out takes its noise away. Parameters of the
    model keep all of their gradient, those that it shares with the guide (``VampPrior``) too.
    Latent sites may depend on each other.

    Arguments:
        num_particles, bound, linear: As of :class:`WeightedELBO`.
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
