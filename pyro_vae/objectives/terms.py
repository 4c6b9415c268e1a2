"""The terms of the ELBO, computed from the traces that an objective makes."""

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae import compat
from pyro_vae.objectives.wrapper import Wrapper, layers
from pyro_vae.utils.traces import log_prob_sum

__all__ = ["UNANNEALED", "WithTerms", "collected_traces", "elbo_terms"]

UNANNEALED = "pyro_vae.unannealed"
"""The key of a site's ``infer`` that holds its scale without the weight of an annealed KL."""


def collected_traces(elbo: ELBO) -> AbstractContextManager[list[tuple[Trace, Trace]]]:
    """Collects the (model, guide) traces that an objective makes inside the block."""
    *_, inner = layers(elbo)
    return compat.collected_traces(inner)


def elbo_terms(traces: list[tuple[Trace, Trace]], num_particles: int) -> tuple[Tensor, Tensor]:
    r"""Returns :math:`E_q[\log p(x|z)]` and the sampled KL(q, p) of one loss, in nats.

    Both are summed over examples and averaged over particles. Observed sites count in the first
    term, latent sites in the second. An annealed KL is counted with weight one.
    """
    likelihood = kl = torch.zeros(())
    for model, guide in traces:
        for observed, value in _log_probs(model).items():
            if observed:
                likelihood = likelihood + value
            else:
                kl = kl - value
        kl = kl + sum(_log_probs(guide).values())
    return likelihood / num_particles, kl / num_particles


def _log_probs(trace: Trace) -> dict[bool, Tensor]:
    """The log-probability of a trace's latent sites (False) and observed sites (True)."""
    with torch.no_grad():
        return {
            observed: log_prob_sum(
                [
                    (name, site)
                    for name, site in trace.nodes.items()
                    if site["type"] == "sample" and site["is_observed"] is observed
                ],
                scale=lambda site: site["infer"].get(UNANNEALED, site["scale"]),
            )
            for observed in (False, True)
        }


class WithTerms(Wrapper):
    r"""An ELBO that keeps the terms of its last loss.

    Arguments:
        elbo: The ELBO to wrap.

    Attributes:
        terms: :math:`E_q[\log p(x|z)]` and the sampled KL of the last loss, in nats, summed over
            examples. None before the first loss, and if the objective made no traces.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(elbo)
        self.terms: tuple[float, float] | None = None

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        self.terms = None
        *_, inner = layers(self)
        if inner.vectorize_particles and inner.max_plate_nesting == math.inf:
            compat.guess_plates(inner, model, guide, args, kwargs)
        with collected_traces(self.elbo) as traces:
            loss = getattr(self.elbo, method)(model, guide, *args, **kwargs)
        if traces:
            likelihood, kl = elbo_terms(traces, self.num_particles)
            self.terms = likelihood.item(), kl.item()
        return loss
