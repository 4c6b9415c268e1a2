"""Estimates of the log-likelihood of each example, by importance weighting or otherwise."""

import math
from collections.abc import Callable
from typing import Any, overload

import torch

from pyro_vae.evaluation.blocks import blocks
from pyro_vae.evaluation.estimators import EXACT, Estimator, evidence, parse, settings_of
from pyro_vae.evaluation.importance_weights import Statistics, Weights
from pyro_vae.evaluation.inputs import (
    check_arguments,
    data_hash,
    opened,
    opened_pair,
    over_examples,
)
from pyro_vae.evaluation.memory_limit import MaxBytes
from pyro_vae.evaluation.result import LogLikelihood, warn_of
from pyro_vae.evaluation.sharing import sharing
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.checks import check_count
from pyro_vae.utils.context import Batch, Examples
from pyro_vae.utils.modules import device_of
from pyro_vae.utils.processes import together
from pyro_vae.utils.turns import one_at_a_time
from pyro_vae.vae import VAE


@overload
def log_likelihood(
    vae: Pair,
    x: Batch,
    num_samples: int = 1000,
    *,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: MaxBytes = "auto",
    shared: bool = False,
) -> LogLikelihood: ...
@overload
def log_likelihood(
    *,
    x: Batch,
    num_samples: int = 1000,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: MaxBytes = "auto",
    shared: bool = False,
) -> LogLikelihood: ...
@one_at_a_time
def log_likelihood(
    vae: Pair | None = None,
    x: Batch | None = None,
    num_samples: int = 1000,
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: MaxBytes = "auto",
    shared: bool = False,
) -> LogLikelihood:
    r"""Estimates log p(x) of each example, by importance weighting or another estimator.

    .. math:: L_K = \log \frac1K \sum_{k=1}^K w_k, \quad E[w_k] = p(x)

    The expectation of :math:`L_K` is a lower bound of log p(x) that grows with K. Its Monte Carlo
    standard error is :math:`\sqrt{(K/\mathrm{ESS} - 1) / (K - 1)}`, by the delta method.

    With a context c, it is log p(x|c): x is then the tuple ``(x, *context)``.

    It takes a VAE, any other :class:`Pair`, or a Pyro ``model(x, *context)`` and
    ``guide(x, *context)``. All sites have to be in the plate ``"data"``, whose size is that of x.
    There may be any latent sites and masked observations. A pair is evaluated in eval mode, and so
    are `model` and `guide` if they are modules or methods of modules. Other modules that they call
    keep their mode.

    Discrete latents y are summed out exactly: the samples are of the other latents z, with the
    weights :math:`w = \sum_y p(x, z, y) / \sum_y q(z, y|x)`. Without others, log p(x) is exact.
    These are all latents of the model alone that have finitely many values, and those of the guide
    while their values are at most 1024 together, in the plate ``"data"`` alone and without a mask.
    The others are drawn.

    Samples are streamed: the memory depends on `max_bytes`, not on the number of samples or
    examples. From 2**23 draws (samples times examples), a model that is a static program is
    compiled, which changes the numbers by float rounding only. An interruption (Ctrl-C) returns
    the examples that are done.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 3;
    :mod:`pyro_vae.estimators` has the sources of the other estimators.

    Arguments:
        vae: A VAE or any :class:`Pair`; leave it out to give `model` and `guide`.
        x: Data of shape ``(N, *x_shape)``, or a tuple of them and their context. For a VAE, x has
            to be on the likelihood's support, the set on which it is a density: even a relaxed
            Bernoulli takes binary pixels here.
        num_samples: K, the number of samples of z for each example.
        model, guide: A Pyro model and guide, in place of `vae`.
        estimator: ``"importance"``, ``"prior"``, ``"ais"`` or an object of
            :mod:`pyro_vae.estimators`. ``"ais:100:5"`` is AIS with 100 temperatures and 5 leapfrog
            steps. ``"exact"`` is the closed form for a linear-Gaussian VAE, and takes no samples.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.
        max_bytes: A bound on the bytes that one step of the model allocates. It changes the
            numbers by float rounding only. ``"auto"`` is half of the memory that a GPU has left,
            and 2**28 on a CPU. The guide takes 64 examples and 64 samples at a time, a
            model that draws from its prior 64 examples and 8 samples.
        shared: Whether the processes of ``torch.distributed`` share the examples. All of them have
            to call this, with the same arguments, and get the same result, which is that of one
            process. Without a seed, the first of them draws one. An interruption is raised, and
            keeps nothing. If False, each process evaluates by itself.

    Returns:
        The estimates for each example in nats, shape ``(N,)``, their mean with its errors, and
        k-hat.

    Raises:
        TypeError: Neither a VAE nor a pair was given, or both; an argument has the wrong type.
        ValueError: x does not fit or is off its support; an argument is out of range; a pair has
            a site outside the plate, a plate of a fixed size, subsampled or scaled sites, sites
            that change between calls, or a latent site in only one of model and guide, unless the
            model has it and it can be summed out.
        FloatingPointError: A log-probability is NaN.
        RuntimeError: `shared`, and there is no process group, or another process failed.
        ConnectionError: `shared`, and another process has ended.

    Warns:
        UnreliableWeights: The `khat` of some examples is above its threshold, or there are too few
            samples for a k-hat.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = log_likelihood(vae, torch.ones(7, 16), num_samples=100, seed=0)
        >>> result.values.shape, result.num_samples
        (torch.Size([7]), 100)
        >>> result = log_likelihood(x=torch.ones(7, 16), model=vae.model, guide=vae.guide, seed=0)
        >>> result.estimator, result.num_samples
        ('importance', 1000)
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
        shared=shared,
        interruptible=True,
    )
    warn_of(result)
    return result


def estimated(
    vae: Pair | None,
    x: Batch | None,
    num_samples: int,
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: MaxBytes = "auto",
    shared: bool = False,
    interruptible: bool = False,
) -> LogLikelihood:
    """Does the work of :func:`log_likelihood`, for callers in this package.

    It does not warn. Unless `interruptible`, an interruption (Ctrl-C) is raised.
    """
    check_count("num_samples", num_samples)
    chosen = parse(estimator)
    batch = check_arguments(x, seed, max_bytes)
    if (vae is None) == (model is None) or (model is None) != (guide is None):
        raise TypeError(
            f"vae, model, guide: got {_given(vae=vae, model=model, guide=guide)}, expected a vae, "
            "or a model and a guide"
        )
    if vae is not None:
        check_pair(vae)
    device = batch[0].device if vae is None else device_of(vae)
    done = sharing(shared, device, vae, model, guide)
    done.check_alike("x", data_hash(batch))
    if chosen is None:
        if not isinstance(vae, VAE):
            raise ValueError(
                f'estimator: got "{EXACT}" for a pair, expected it for a VAE: the closed form '
                "needs its prior and its likelihood"
            )
        return _exact(vae, batch)
    complete = True
    digest = data_hash(batch)
    if vae is not None:
        context = opened(vae, batch, marginal=True)
    else:
        assert model is not None
        assert guide is not None
        context = opened_pair(model, guide, batch, marginal=True)
    settings = chosen.name, num_samples, seed, settings_of(chosen)
    done.check_alike("estimator, num_samples, seed", settings)
    with together(done.processes, "log_likelihood"), context as (densities, batch):
        rest = densities, batch, done.seed(seed), max_bytes, "log-likelihood", num_samples
        try:
            for block in blocks(*rest, done.takes):
                weights = Weights(num_samples)
                for log_w in chosen.log_weights(block, num_samples):
                    weights.add(log_w)
                done.own.append(weights.statistics())
        except KeyboardInterrupt:
            if shared or not done.own or not interruptible:
                raise
            complete = False
    return _result(done.joined(), num_samples, chosen, seed, digest, complete)


def _result(
    blocks: list[Statistics],
    num_samples: int,
    estimator: Estimator,
    seed: int | None,
    data_hash: str,
    complete: bool,
) -> LogLikelihood:
    """Joins the statistics of all blocks of examples."""
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
        estimator_settings=settings_of(estimator),
        seed=None if seed is None else int(seed),
        data_hash=data_hash,
        complete=complete,
        sizes=blocks[0].sizes,
        bounds=tuple(bounds.mean(1).tolist()),
        bound_errors=tuple((bound_variances.sum(1).sqrt() / len(values)).tolist()),
    )


def _exact(vae: VAE, batch: Examples) -> LogLikelihood:
    """Returns the closed form as a result; `elbo` and `ess` are NaN."""
    with opened(vae, batch) as (_, on_device):
        values = evidence(vae, *on_device)
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
        data_hash=data_hash(batch),
        complete=True,
        sizes=(),
        bounds=(),
        bound_errors=(),
    )


def _given(**arguments: object) -> str:
    """Lists the names of the arguments that are not None, for an error message."""
    return ", ".join(name for name, value in arguments.items() if value is not None) or "none"
