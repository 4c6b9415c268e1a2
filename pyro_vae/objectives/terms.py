"""The terms of the ELBO, computed from the traces that an objective makes."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from pyro.infer import ELBO, TraceEnum_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae import compat
from pyro_vae.objectives.enumeration import UNANNEALED, expected_terms
from pyro_vae.objectives.wrapper import Wrapper, guess_plates, layers
from pyro_vae.utils.traces import log_prob_sum

__all__ = ["WithTerms", "collected_traces", "elbo_terms"]


def collected_traces(elbo: ELBO) -> AbstractContextManager[list[tuple[Trace, Trace]]]:
    """Collects the (model, guide) traces that an objective makes inside the block."""
    *_, inner = layers(elbo)
    return compat.collected_traces(inner)


def elbo_terms(elbo: ELBO, traces: list[tuple[Trace, Trace]]) -> tuple[Tensor, Tensor]:
    r"""Returns :math:`E_q[\log p(x|z)]` and the sampled KL(q, p) of one loss, in nats.

    Both are summed over examples and averaged over particles. Observed sites count in the first
    term, latent sites in the second. An annealed KL is counted with weight one. Sites that are
    enumerated count by their expectation.
    """
    likelihood = kl = torch.zeros(())
    *_, inner = layers(elbo)
    enumerates = isinstance(inner, TraceEnum_ELBO)
    for model, guide in traces:
        if enumerates:
            with torch.no_grad():
                terms = expected_terms(model, guide)
            likelihood, kl = likelihood + terms[0], kl + terms[1]
            continue
        for observed, value in _log_probs(model).items():
            if observed:
                likelihood = likelihood + value
            else:
                kl = kl - value
        kl = kl + sum(_log_probs(guide).values())
    return likelihood / elbo.num_particles, kl / elbo.num_particles


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
        guess_plates(self, model, guide, args, kwargs)
        with collected_traces(self.elbo) as traces:
            loss = getattr(self.elbo, method)(model, guide, *args, **kwargs)
        if traces:
            likelihood, kl = elbo_terms(self, traces)
            self.terms = likelihood.item(), kl.item()
        return loss
