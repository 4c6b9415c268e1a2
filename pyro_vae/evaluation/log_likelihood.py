"""The log-likelihood of each example, by importance weighting or another estimator."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation import estimators
from pyro_vae.evaluation.blocks import blocks
from pyro_vae.evaluation.estimators import EXACT, Estimator, evidence
from pyro_vae.evaluation.importance_weights import Statistics, Weights
from pyro_vae.evaluation.inputs import (
    check_arguments,
    data_hash,
    opened,
    opened_pair,
    over_examples,
)
from pyro_vae.evaluation.result import LogLikelihood, warn_of
from pyro_vae.utils.checks import check_count
from pyro_vae.vae import VAE


def log_likelihood(
    vae: VAE | None = None,
    x: Tensor | None = None,
    num_samples: int = 1000,
    *,
    model: Callable[[Tensor], Any] | None = None,
    guide: Callable[[Tensor], Any] | None = None,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: int = 2**28,
) -> LogLikelihood:
    r"""Estimates each example's log p(x), by importance weighting or another estimator.

    .. math:: L_K = \log \frac1K \sum_{k=1}^K w_k, \quad E[w_k] = p(x)

    Its mean is a lower bound of log p(x) that grows with K. Of a VAE, in eval mode, or of any Pyro
    ``model(x)`` and ``guide(x)`` whose sites are all in the plate ``"data"``, of the size of x:
    any latents in it, masked observations too. Modules that these call are in the mode that they
    are in, but for `model` and `guide` themselves and the modules whose methods they are, which
    are in eval mode. Samples are streamed: memory depends on `max_bytes`, not on the number of
    samples or examples. From 2**23 pairs of sample and example on the model is compiled, where it
    is a static program, which changes numbers by float rounding only. An interruption (Ctrl-C)
    returns what is done.

    Arguments:
        vae: The VAE; or else `model` and `guide`.
        x: Data of shape ``(N, *x_shape)``. For a VAE on the likelihood's support, the set on which
            it is a density: binarized pixels for a relaxed Bernoulli too.
        num_samples: K.
        model, guide: A Pyro pair, in the place of `vae`.
        estimator: ``"importance"``, ``"prior"``, ``"ais"`` (``"ais:100:5"`` with 100 temperatures
            and 5 leapfrog steps), or one of :mod:`estimators`; ``"exact"`` for a VAE that is
            linear and Gaussian, which takes no samples.
        seed: Fixes the noise and leaves torch's global generator as it was; None draws from it.
        max_bytes: Bound on what one step of the model allocates (the guide takes 64 examples at a
            time, and 64 samples; a model that draws from its prior 64 and 8); changes numbers by
            float rounding only.

    Raises:
        TypeError, ValueError: x does not fit, or is off its support; neither a VAE nor a pair; a
            pair has latents or observations outside of the plate, plates of a fixed size,
            subsampled or scaled ones, sites that change from call to call, latents that only one
            of both has; an argument is out of range.
        FloatingPointError: A log-probability is NaN.

    Warns:
        UnreliableWeights: For how many examples `khat` is above its threshold, or that samples
            are too few for it.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3; Monte Carlo error of a log-mean by
    the delta method, :math:`\sqrt{(K/\mathrm{ESS} - 1) / (K - 1)}`; :mod:`pyro_vae.estimators` has
    those of the estimators.
    """
    result = estimated(
        vae,
        x,
        num_samples,
        model=model,
        guide=guide,
        estimator=estimator,
        seed=seed,
        max_bytes=max_bytes,
        interruptible=True,
    )
    warn_of(result, stacklevel=3)
    return result


def estimated(
    vae: VAE | None,
    x: Tensor | None,
    num_samples: int,
    *,
    model: Callable[[Tensor], Any] | None = None,
    guide: Callable[[Tensor], Any] | None = None,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: int = 2**28,
    interruptible: bool = False,
) -> LogLikelihood:
    """:func:`log_likelihood` for code: it warns of nothing, and an interruption is raised."""
    check_count("num_samples", num_samples)
    chosen = estimators.parse(estimator)
    x = check_arguments(x, seed, max_bytes)
    if (vae is None) == (model is None) or (model is None) != (guide is None):
        raise TypeError(
            f"vae, model, guide: got {_given(vae=vae, model=model, guide=guide)}, expected a vae, "
            "or a model and a guide"
        )
    if chosen is None:
        if vae is None:
            raise ValueError(f'estimator: got "{EXACT}" for a pair, expected it for a VAE')
        return _exact(vae, x)
    done: list[Statistics] = []
    complete = True
    digest = data_hash(x)
    if vae is not None:
        door = opened(vae, x)
    else:
        assert model is not None
        assert guide is not None
        door = opened_pair(model, guide, x)
    with door as (densities, x):
        try:
            for block in blocks(densities, x, seed, max_bytes, "log-likelihood", num_samples):
                weights = Weights(num_samples)
                for log_w in chosen.log_weights(block, num_samples):
                    weights.add(log_w)
                done.append(weights.statistics())
        except KeyboardInterrupt:
            if not done or not interruptible:
                raise
            complete = False
    return _gathered(done, num_samples, chosen, seed, digest, complete)


def _gathered(
    blocks: list[Statistics],
    num_samples: int,
    estimator: Estimator,
    seed: int | None,
    data_hash: str,
    complete: bool,
) -> LogLikelihood:
    values, log_mean, ess, khat, jackknife, variance = (
        torch.cat([getattr(block, name) for block in blocks])
        for name in ("value", "log_mean", "ess", "khat", "jackknife", "variance")
    )
    bounds, bound_variances = (
        torch.cat([getattr(block, name) for block in blocks], dim=1)
        for name in ("bounds", "bound_variances")
    )
    return LogLikelihood(
        values,
        log_mean,
        ess,
        khat,
        jackknife,
        *over_examples(values, variance),
        bias=(values - jackknife).mean().item(),
        num_samples=int(num_samples),
        estimator=estimator.name,
        estimator_settings=estimators.settings_of(estimator),
        seed=None if seed is None else int(seed),
        data_hash=data_hash,
        complete=complete,
        sizes=blocks[0].sizes,
        bounds=tuple(bounds.mean(1).tolist()),
        bound_errors=tuple((bound_variances.sum(1).sqrt() / len(values)).tolist()),
    )


def _exact(vae: VAE, x: Tensor) -> LogLikelihood:
    with opened(vae, x) as (_, on_device):
        values = evidence(vae, on_device)
    none = torch.full_like(values, math.nan)
    return LogLikelihood(
        values,
        none,
        none,
        torch.full_like(values, -math.inf),
        values,
        *over_examples(values, torch.zeros_like(values)),
        bias=0.0,
        num_samples=0,
        estimator=EXACT,
        estimator_settings={},
        seed=None,
        data_hash=data_hash(x),
        complete=True,
        sizes=(),
        bounds=(),
        bound_errors=(),
    )


def _given(**arguments: object) -> str:
    return ", ".join(name for name, value in arguments.items() if value is not None) or "none"
