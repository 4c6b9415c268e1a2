"""The engine of importance-weighted objectives: bounds that are functions of log-weights."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import get_dependent_plate_dims, torch_item
from pyro.poutine import Trace
from pyro.poutine.util import is_validation_enabled, prune_subsample_sites
from pyro.util import check_if_enumerated, check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor

from pyro_vae.distributions import describe_distribution
from pyro_vae.objectives.traits import Traits
from pyro_vae.utils.traces import log_prob_sum


class ImportanceWeightedELBO(ELBO):
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

    @property
    def traits(self) -> Traits:
        """A linear bound is the ELBO."""
        return Traits(is_linear=self.linear, is_static=True)

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
                    f'site "{name}": the guide\'s {describe_distribution(q)} has no rsample, expected a '
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
            sites = [item for item in trace.nodes.items() if item[1]["type"] == "sample"]
            total = log_prob_sum(sites, lambda count: dims)
            sums.append(total if self.num_particles > 1 else total.unsqueeze(0))
        return sums[0], sums[1]
