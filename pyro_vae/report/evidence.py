"""What a report shows of a pair: its history, scores, and what it makes of examples."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_vae.composed import Composed
from pyro_vae.evaluation import (
    ActiveUnits,
    Diagnosis,
    Elbo,
    UnreliableWeights,
    active_units,
    diagnose,
    elbo,
)
from pyro_vae.models import HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.pair import Pair
from pyro_vae.report.score import Score
from pyro_vae.training import History
from pyro_vae.utils.context import Batch, Examples, as_batch, rows
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

__all__ = ["EXAMPLES", "Evidence", "Seen", "latent_points", "seen"]

EXAMPLES = 1000
"""How many examples a report looks at."""

_SAMPLES = 10


@dataclass(frozen=True)
class Seen:
    """What a pair makes of examples.

    Attributes:
        batch: The examples, with their context.
        labels: A label of each, or None.
        bound: Their ELBO.
        units: How active each latent is; None where one is discrete.
        diagnosis: What is wrong.
        points: The latent point of each in the top layer; None for a pair that is not composed of
            parts.
        reconstructed: The reconstruction of each, or None.
        kl: The mean KL of each latent; None where it is no sum over them.
    """

    batch: Examples
    labels: Sequence[str] | None
    bound: Elbo
    units: ActiveUnits | None
    diagnosis: Diagnosis
    points: Tensor | None
    reconstructed: Tensor | None
    kl: Tensor | None


@dataclass(frozen=True)
class Evidence:
    """All that a report shows of one pair.

    Attributes:
        name: What it is called.
        about: Lines of the header, by title.
        pair: The pair.
        history: The history of its training, or None.
        scores: Its log-likelihoods, the newest last.
        seen: What it makes of examples, or None without any.
    """

    name: str
    about: Mapping[str, str]
    pair: Pair
    history: History | None
    scores: Sequence[Score]
    seen: Seen | None


def seen(
    pair: Pair,
    x: Batch,
    labels: Sequence[str] | None = None,
    history: History | None = None,
    seed: int | None = 0,
) -> Seen:
    """Looks at the first examples of some data.

    Arguments:
        pair: A VAE or any :class:`Pair`.
        x: Examples, or a tuple of them and their context.
        labels: A label of each.
        history: The history of the training.
        seed: Fixes the noise.
    """
    batch = rows(as_batch(x), slice(EXAMPLES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWeights)  # The page says it.
        bound = elbo(pair, batch, num_samples=_SAMPLES, seed=seed)
        diagnosis = diagnose(pair, batch, history=history, seed=seed)
    units = None
    if "active" in diagnosis.measured:  # They are not defined for a discrete latent.
        units = active_units(pair, batch, seed=seed)
    points = reconstructed = kl = None
    with seeded(seed):
        if isinstance(pair, Composed):
            points = latent_points(pair, batch)
            reconstructed = pair.reconstruct(batch[0], _read(pair, batch))
        if isinstance(pair, VAE):
            kl = _kl_of_each(pair, batch)
    return Seen(batch, labels, bound, units, diagnosis, points, reconstructed, kl)


def latent_points(pair: Composed, batch: Examples) -> Tensor:
    """The latent point of each example in the top layer, shape ``(N, z_dim)``."""
    points = pair.embed(batch[0], _read(pair, batch))
    top: Tensor = points[-1] if isinstance(pair, HierarchicalVAE) else points
    return top


def _read(pair: Composed, batch: Examples) -> Examples | None:
    """The context that an encoder reads: a semi-supervised pair guesses the class."""
    return batch[2 if isinstance(pair, SemiSupervisedVAE) else 1 :] or None


@torch.no_grad()
def _kl_of_each(vae: VAE, batch: Examples) -> Tensor | None:
    """The mean KL of each latent, where the latents are independent in both distributions."""
    with evaluating(vae):
        guide = poutine.trace(vae.guide).get_trace(*batch)
        model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(*batch)
    both: list[Any] = [trace.nodes["z"]["fn"] for trace in (guide, model)]
    if not all(isinstance(d, Independent) for d in both):
        return None
    try:
        each: Tensor = kl_divergence(both[0].base_dist, both[1].base_dist)
    except NotImplementedError:
        return None
    return each.mean(0) if each.dim() == 2 else None
