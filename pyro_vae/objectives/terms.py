"""The terms of the ELBO, computed from the traces that an objective makes."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from pyro.infer import ELBO, TraceEnum_ELBO
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae import compat
from pyro_vae.objectives.enumeration import UNANNEALED, expected_terms
from pyro_vae.objectives.wrapper import Wrapper, guess_plates, layers
from pyro_vae.utils.traces import log_prob_sum

__all__ = ["Terms", "WithTerms", "collected_traces", "elbo_terms", "parts_of"]

Terms = tuple[Tensor, Tensor, dict[str, Tensor]]
"""E_q[log p(x|z)], KL(q, p), and the part of each latent site in it, if there are several."""


def collected_traces(elbo: ELBO) -> AbstractContextManager[list[tuple[Trace, Trace]]]:
    """Collects the (model, guide) traces that an objective makes inside the block."""
    *_, inner = layers(elbo)
    return compat.collected_traces(inner)


def elbo_terms(elbo: ELBO, traces: list[tuple[Trace, Trace]]) -> Terms:
    r"""Returns :math:`E_q[\log p(x|z)]` and the sampled KL(q, p) of one loss, in nats.

    Both are summed over examples and averaged over particles. Observed sites count in the first
    term, latent sites in the second. An annealed KL is counted with weight one. Sites that are
    enumerated count by their expectation.

    With several latent sites, each has its part of the KL,
    :math:`E_q[\log q(z_i|\cdot) - \log p(z_i|\cdot)]`. It is a KL itself where the guide draws
    the sites in the model's order, and may be negative elsewhere. There are no parts for a guide
    with auxiliary sites, or with sites that are enumerated.
    """
    likelihood = kl = torch.zeros(())
    parts: dict[str, Tensor] = {}
    *_, inner = layers(elbo)
    enumerates = isinstance(inner, TraceEnum_ELBO)
    for model, guide in traces:
        if enumerates:
            with torch.no_grad():
                terms = expected_terms(model, guide)
            likelihood, kl = likelihood + terms[0], kl + terms[1]
            continue
        p_z, p_x = (_log_prob(model, _sites(model, observed)) for observed in (False, True))
        sites = _sites(guide, False)
        likelihood = likelihood + p_x
        kl = kl - p_z + _log_prob(guide, sites + _sites(guide, True))
        for name in parts_of(guide):
            part = _log_prob(guide, [name])
            if name in model.nodes:
                part = part - _log_prob(model, [name])
            parts[name] = parts.get(name, torch.zeros(())) + part
    count = elbo.num_particles
    return likelihood / count, kl / count, {name: part / count for name, part in parts.items()}


def parts_of(guide: Trace) -> list[str]:
    """The latent sites of a guide that have a part of the KL each: all of them, or none.

    Arguments:
        guide: A trace of the guide.
    """
    sites = _sites(guide, False)
    auxiliary = any(guide.nodes[name]["infer"].get("is_auxiliary") for name in sites)
    return sites if len(sites) > 1 and not auxiliary else []


def _sites(trace: Trace, observed: bool) -> list[str]:
    return [
        name
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and site["is_observed"] is observed
        and not site_is_subsample(site)
    ]


@torch.no_grad()
def _log_prob(trace: Trace, names: list[str]) -> Tensor:
    """The log-probability of some sites of a trace, without the weight of an annealed KL."""
    return log_prob_sum(
        [(name, trace.nodes[name]) for name in names],
        scale=lambda site: site["infer"].get(UNANNEALED, site["scale"]),
    )


class WithTerms(Wrapper):
    r"""An ELBO that keeps the terms of its last loss.

    Arguments:
        elbo: The ELBO to wrap.

    Attributes:
        terms: :math:`E_q[\log p(x|z)]` and the sampled KL of the last loss, in nats, summed over
            examples. None before the first loss, and if the objective made no traces.
        parts: The part of each latent site in that KL, if there are several.
    """

    def __init__(self, elbo: ELBO) -> None:
        super().__init__(elbo)
        self.terms: tuple[float, float] | None = None
        self.parts: dict[str, float] = {}

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        self.terms = None
        guess_plates(self, model, guide, args, kwargs)
        with collected_traces(self.elbo) as traces:
            loss = getattr(self.elbo, method)(model, guide, *args, **kwargs)
        if traces:
            likelihood, kl, parts = elbo_terms(self, traces)
            self.terms = likelihood.item(), kl.item()
            self.parts = {name: part.item() for name, part in parts.items()}
        return loss
