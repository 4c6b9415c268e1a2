"""The base class of importance-weighted objectives, whose bounds are functions of log-weights."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.infer.util import get_dependent_plate_dims, torch_item
from pyro.poutine import Trace
from pyro.poutine.util import is_validation_enabled, prune_subsample_sites
from pyro.util import check_if_enumerated, check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor

from pyro_vae.compat import UnloggedELBO
from pyro_vae.contracts import is_scaled
from pyro_vae.distributions import RelaxedOneHotCodes, describe_distribution
from pyro_vae.objectives.traits import Traits
from pyro_vae.utils.traces import log_prob_sum

__all__ = ["ImportanceWeightedELBO"]


class ImportanceWeightedELBO(UnloggedELBO):
    r"""A negative bound that is a function of log-weights, :math:`-\sum_n B(\log w_{1n}, \dots)`.

    There are weights :math:`w_k = p(x, z_k) / q(z_k|x)` for each element of the plates that
    contain all sites; for a VAE, these elements are the examples. Particles are vectorized. The
    gradient is that of the bound itself, so the guide must be reparameterized.

    Arguments:
        num_particles: Number of weights for each element.
        bound: B, which maps log-weights of shape ``(num_particles, ...)`` to bounds of shape
            ``(...)``, in nats.
        linear: Whether the bound stays one if log-probabilities are scaled, by ``poutine.scale``
            or a subsampled plate. If not, scaled sites raise.
        static: Whether the bound runs the same operations at each call. One that draws the number
            of weights by Python's ``random``, say, does not; ``fit`` then runs it uncompiled,
            since compiled code would repeat the first draw.

    Raises:
        ValueError: At a loss: a latent site is not reparameterized or is missing in the guide, or
            a site is scaled and the bound is not linear.
    """

    def __init__(
        self,
        num_particles: int,
        bound: Callable[[Tensor], Tensor],
        linear: bool = False,
        *,
        static: bool = True,
    ) -> None:
        super().__init__(num_particles=num_particles, vectorize_particles=num_particles > 1)
        self.bound = bound
        self.linear = linear
        self.static = static

    @property
    def traits(self) -> Traits:
        """The traits of the objective; a linear bound is the ELBO."""
        return Traits(is_linear=self.linear, is_static=self.static)

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats, summed over examples."""
        log_p, log_q = self._log_probs(*self._vectorized_traces(model, guide, args, kwargs))
        loss = -self.bound(log_p - log_q).sum()
        warn_if_nan(loss, "loss")
        return torch_item(loss)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        log_p, log_q = self._log_probs(*self._vectorized_traces(model, guide, args, kwargs))
        loss = -self.bound(log_p - log_q).sum()
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats; adds its gradient to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def _vectorized_traces(
        self, model: Any, guide: Any, args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        """The traces of the model and the guide, with all particles in each."""
        (traces,) = self._get_traces(model, guide, args, kwargs)
        return traces

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
        """The trace whose values are replayed in the model."""
        return guide_trace

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Raises ValueError if the bound does not hold for these traces."""
        if is_validation_enabled():
            check_if_enumerated(guide_trace)
        for name in guide_trace.stochastic_nodes:
            q = guide_trace.nodes[name]["fn"]
            if not q.has_rsample:
                raise ValueError(
                    f'site "{name}": the guide\'s {describe_distribution(q)} has no rsample, '
                    "expected a reparameterized guide; use objectives.trace_elbo() instead"
                )
            if isinstance(q, RelaxedOneHotCodes):
                raise ValueError(
                    f'site "{name}": the guide has relaxed one-hot codes, whose score is no '
                    "density, expected objectives.trace_elbo() or analytic_kl(), which train them"
                )
        for name in model_trace.stochastic_nodes:
            if name not in guide_trace.nodes:
                raise ValueError(
                    f'site "{name}": latent in the model, and not in the guide, expected a guide '
                    "that draws it: its prior density would stay in the importance weights"
                )
        for trace in () if self.linear else (model_trace, guide_trace):
            for name, site in trace.nodes.items():
                scale = site["scale"] if site["type"] == "sample" else 1
                if is_scaled(scale):
                    raise ValueError(
                        f'site "{name}": its log-probability is scaled by {scale}, expected no '
                        "poutine.scale and no subsampled plate: the bound holds for unscaled "
                        "importance weights only"
                    )

    def _log_probs(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, Tensor]:
        """Returns log p(x, z) and log q(z|x), each of shape ``(num_particles, *plates)``."""
        dims = get_dependent_plate_dims(model_trace.nodes.values())
        sums = []
        for trace in (model_trace, guide_trace):
            sites = [item for item in trace.nodes.items() if item[1]["type"] == "sample"]
            total = log_prob_sum(sites, lambda count: dims)
            sums.append(total if self.num_particles > 1 else total.unsqueeze(0))
        return sums[0], sums[1]
