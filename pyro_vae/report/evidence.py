"""What a report shows of a pair: its history, scores, latents, and what it makes of examples."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import kl_divergence
from torch import Tensor

from pyro_vae.composed import Composed
from pyro_vae.evaluation import (
    ActiveUnits,
    Diagnosis,
    Elbo,
    LogLikelihood,
    UnreliableWeights,
    active_units,
    diagnose,
    elbo,
    khat_threshold,
)
from pyro_vae.models import HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.pair import Pair
from pyro_vae.training import History
from pyro_vae.utils.context import Batch, as_batch, rows
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

__all__ = ["EXAMPLES", "Evidence", "Score", "gathered"]

EXAMPLES = 1000
"""How many examples a report looks at."""

_SAMPLES = 10


@dataclass(frozen=True)
class Score:
    """A log-likelihood of test data, in nats, and how far to trust it.

    Attributes:
        mean, stderr, mc_error: The mean, its standard error over examples, and its Monte Carlo
            error.
        values: The estimate of each example, shape ``(N,)``.
        num_samples, estimator: How it was estimated.
        khat: The k-hat of each example, shape ``(N,)``.
        sizes, bounds, errors: The mean of L_k by the number of samples k, and its errors.
        doubt: What k-hat says against it; empty if nothing.
        data_hash: The hash of x.
    """

    mean: float
    stderr: float
    mc_error: float
    values: Tensor
    num_samples: int
    estimator: str
    khat: Tensor
    sizes: Sequence[int]
    bounds: Sequence[float]
    errors: Sequence[float]
    doubt: str
    data_hash: str

    @property
    def threshold(self) -> float:
        """The k-hat above which so many samples are too few."""
        return khat_threshold(self.num_samples)

    @classmethod
    def of(cls, result: LogLikelihood) -> "Score":
        """That of a result."""
        return cls(
            result.mean,
            result.stderr,
            result.mc_error,
            result.values,
            result.num_samples,
            result.estimator,
            result.khat,
            (*result.sizes, result.num_samples),
            (*result.bounds, result.mean),
            (*result.bound_errors, result.mc_error),
            result.doubt or "",
            result.data_hash,
        )

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Score":
        """That of a record of ``pyro-vae evaluate``."""
        means, each = record["log-likelihood"], record["per example"]
        mean, error = _number(means["mean"]), _number(means["mc_error"])
        return cls(
            mean,
            _number(means["stderr"]),
            error,
            _numbers(each["values"]),
            record["num_samples"],
            record["estimator"],
            _numbers(each["khat"]),
            (*record["sizes"], record["num_samples"]),
            (*map(_number, record["bounds"]), mean),
            (*map(_number, record["bound_errors"]), error),
            record["doubt"] or "",
            record["data_hash"],
        )


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Sequence[float | str | None]) -> Tensor:
    return torch.tensor([_number(value) for value in values], dtype=torch.float64)


@dataclass(frozen=True)
class Evidence:
    """All that a report shows of one pair.

    Attributes:
        name: What it is called.
        about: Lines of the header, by title.
        pair: The pair.
        history: The history of its training, or None.
        scores: Its log-likelihoods, the newest last.
        batch: The examples that are looked at, with their context; None without data.
        labels: Their labels, or None.
        bound: Their ELBO.
        units: How active each latent is.
        found: The diagnosis.
        points: The latent point of each example, in the top layer, or None.
        reconstructed: The reconstruction of each example, or None.
        kl: The mean KL of each latent, or None where it is no sum over them.
    """

    name: str
    about: Mapping[str, str]
    pair: Pair
    history: History | None
    scores: Sequence[Score]
    batch: tuple[Tensor, ...] | None = None
    labels: Tensor | None = None
    bound: Elbo | None = None
    units: ActiveUnits | None = None
    found: Diagnosis | None = None
    points: Tensor | None = None
    reconstructed: Tensor | None = None
    kl: Tensor | None = None


def gathered(
    name: str,
    about: Mapping[str, str],
    pair: Pair,
    x: Batch | None,
    labels: Tensor | None = None,
    history: History | None = None,
    scores: Sequence[Score] = (),
    seed: int = 0,
) -> Evidence:
    """Looks at a pair, with the first examples of some data.

    Arguments:
        name, about: The header.
        pair: A VAE or any :class:`Pair`.
        x: Examples, or a tuple of them and their context; None leaves out what needs them.
        labels: A label of each, for the picture of the latents.
        history: The history of its training.
        scores: Its log-likelihoods.
        seed: Fixes the noise.
    """
    if x is None:
        return Evidence(name, about, pair, history, scores)
    batch = rows(as_batch(x), slice(EXAMPLES))
    labels = None if labels is None else labels[: len(batch[0])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWeights)
        bound = elbo(pair, batch, num_samples=_SAMPLES, seed=seed)
        units = active_units(pair, batch, seed=seed)
        found = diagnose(pair, batch, history=history, seed=seed)
    points = reconstructed = None
    if isinstance(pair, Composed):
        with seeded(seed):
            points, reconstructed = _looked(pair, batch)
    kl = _kl_of_each(pair, batch)
    looked = batch, labels, bound, units, found, points, reconstructed, kl
    return Evidence(name, about, pair, history, scores, *looked)


def _looked(pair: Any, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The latent points in the top layer, and the reconstructions."""
    x, *context = batch
    given: Any = tuple(context[1:] if isinstance(pair, SemiSupervisedVAE) else context) or None
    points = pair.embed(x, given)
    top = points[-1] if isinstance(pair, HierarchicalVAE) else points
    return top, pair.reconstruct(x, given)


@torch.no_grad()
def _kl_of_each(pair: Pair, batch: tuple[Tensor, ...]) -> Tensor | None:
    """The mean KL of each latent, where both distributions are independent ones."""
    if not isinstance(pair, VAE) or len(batch) > 1:
        return None
    with evaluating(pair):
        q_z, p_z = pair.posterior(batch[0]), pair.prior()
    if not isinstance(q_z, dist.Independent) or not isinstance(p_z, dist.Independent):
        return None
    try:
        each: Tensor = kl_divergence(q_z.base_dist, p_z.base_dist)
    except NotImplementedError:
        return None
    return each.mean(0) if each.dim() == 2 else None
