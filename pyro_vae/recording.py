"""The terms of an ELBO, read from the traces that an objective makes anyway."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

UNANNEALED = "pyro_vae.unannealed"
"""In a site's ``infer``: the scale that it has without an annealed KL."""


def layers(elbo: ELBO) -> Iterator[ELBO]:
    """An ELBO, the one inside it, and so on to the one that makes the traces."""
    yield elbo
    if isinstance(elbo, Around):
        yield from layers(elbo.elbo)


@contextmanager
def recording(elbo: ELBO) -> Iterator[list[tuple[Trace, Trace]]]:
    """Lists the (model, guide) traces that an objective makes inside the block.

    Every Pyro ELBO takes its traces from its own ``_get_trace``. Reading them there costs no
    further pass, and the objective stays the user's own.
    """
    traces: list[tuple[Trace, Trace]] = []
    *_, elbo = layers(elbo)
    own = elbo._get_trace
    patched = vars(elbo).get("_get_trace")  # by a block that this one is nested in

    def get_trace(*args: Any) -> tuple[Trace, Trace]:
        traces.append(own(*args))
        return traces[-1]

    elbo._get_trace = get_trace
    try:
        yield traces
    finally:
        if patched is None:
            del elbo._get_trace
        else:
            elbo._get_trace = patched


def terms(traces: list[tuple[Trace, Trace]], num_particles: int) -> tuple[Tensor, Tensor]:
    """E_q log p(x|z) and the sampled KL(q, p) of the traces of one loss, in nats.

    Sums over examples, means over particles. Observed sites make the first, latent sites the
    second.
    """
    zero = torch.zeros(())
    likelihood = kl = zero
    for model, guide in traces:
        for site in model.nodes.values():
            if site["type"] == "sample" and site["is_observed"]:
                likelihood = likelihood + site["log_prob_sum"].detach()
            elif site["type"] == "sample":
                kl = kl - _log_prob_sum(site)
        for site in guide.nodes.values():
            if site["type"] == "sample":
                kl = kl + _log_prob_sum(site)
    return likelihood / num_particles, kl / num_particles


def _log_prob_sum(site: dict[str, Any]) -> Tensor:
    """A latent site's log-probability without an annealing weight, which may be zero."""
    if UNANNEALED not in site["infer"]:
        return site["log_prob_sum"].detach()
    scale = site["infer"][UNANNEALED]
    return scale_and_mask(site["unscaled_log_prob"].detach(), scale, site["mask"]).sum()


class Around(ELBO):
    """An ELBO that leaves the work to another.

    Arguments:
        elbo: The ELBO that does the work, and makes the traces.
    """

    def __init__(self, elbo: ELBO) -> None:
        self.elbo = elbo
        super().__init__(
            elbo.num_particles,
            elbo.max_plate_nesting,
            vectorize_particles=elbo.vectorize_particles,
            retain_graph=elbo.retain_graph,
        )

    @property
    def num_particles(self) -> int:
        """Of the ELBO that does the work."""
        return self.elbo.num_particles

    @num_particles.setter
    def num_particles(self, number: int) -> None:
        """Sets it."""
        self.elbo.num_particles = number

    def _get_trace(self, model, guide, args, kwargs):  # type: ignore[no-untyped-def]
        return self.elbo._get_trace(model, guide, args, kwargs)


class Recorded(Around):
    """An ELBO that keeps the terms of its last loss.

    Arguments:
        elbo: The ELBO that does the work.

    Attributes:
        terms: E_q log p(x|z) and the sampled KL of the last loss, in nats; None before the first,
            and where the objective made no traces of its own.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(elbo)
        self.terms: tuple[float, float] | None = None

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        self.terms = None
        with recording(self.elbo) as traces:
            loss = getattr(self.elbo, method)(model, guide, *args, **kwargs)
        if traces:
            likelihood, kl = terms(traces, self.num_particles)
            self.terms = likelihood.item(), kl.item()
        return loss

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, as the ELBO gives it."""
        return self._call("loss", model, guide, args, kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number; adds its gradients to those of the parameters."""
        return self._call("loss_and_grads", model, guide, args, kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a tensor whose gradient is the estimator's."""
        return self._call("differentiable_loss", model, guide, args, kwargs)
