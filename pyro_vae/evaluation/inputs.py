"""What evaluations share: checks of the data, hashes, and means over examples."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.contracts import call, check
from pyro_vae.datasets import Pixels, to_pixels
from pyro_vae.distributions import (
    check_on_support,
    describe_distribution,
    or_nan,
    same_support,
)
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.evaluation.memory_limit import MaxBytes, check_max_bytes
from pyro_vae.evaluation.simulation import observed_site
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.autocast import warn_of_autocast
from pyro_vae.utils.checks import check_examples, check_seed
from pyro_vae.utils.context import Batch, Examples, as_batch, content_hash
from pyro_vae.utils.modules import (
    device_of,
    dtype_of,
    evaluating,
    owner_of,
    without_gradients,
)
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE


def check_arguments(x: Batch | None, seed: int | None, max_bytes: MaxBytes) -> Examples:
    """Returns ``(x, *context)``, after checks of what every estimate takes.

    Raises:
        TypeError: x is neither a tensor nor a tuple of them, or the seed is neither an int nor
            None.
        ValueError: x has no examples, or an entry of the context has another number of them;
            `seed` or `max_bytes` is out of range.
    """
    check_seed(seed)
    check_max_bytes(max_bytes)
    if x is None:
        raise TypeError("x: got None, expected a torch.Tensor, or a tuple (x, *context) of them")
    batch = as_batch(x)
    check_examples("x", batch[0])
    return batch


@contextmanager
def opened(vae: Pair, x: Batch, marginal: bool = False) -> Iterator[tuple[LogDensities, Examples]]:
    """A context in which a pair is in eval mode, with gradients off.

    Yields the pair's log-densities, and x with its context on the pair's device.

    Raises:
        TypeError: `vae` is not a pair, or x has another dtype than a VAE.
        ValueError: x does not fit the pair or is off its likelihood's support, or the posterior is
            a point mass.
    """
    check_pair(vae)
    if not isinstance(vae, VAE):
        batch = tuple(entry.to(device_of(vae)) for entry in as_batch(x))
        check_examples("x", batch[0])
        with without_gradients(), evaluating(vae), seeded(0, device=batch[0].device):
            if not vae.is_set_up:
                vae.setup(*batch)
        with opened_pair(vae.model, vae.guide, batch, marginal) as entered:
            yield entered
        return
    with without_gradients(), evaluating(vae):
        checked = check(vae, x)
        warn_of_autocast(checked.x.device)
        posterior = describe_distribution(checked.posterior)
        if "Delta" in posterior:
            raise ValueError(
                f"posterior: got {posterior}, expected a density: a point mass has no importance "
                "weights"
            )
        check_on_support("x", checked.x, checked.support)
        batch = _ordinary(checked.batch)
        yield LogDensities(vae.model, vae.guide, batch, marginal=marginal), batch


@contextmanager
def opened_pair(
    model: Callable[..., Any], guide: Callable[..., Any], batch: Examples, marginal: bool = False
) -> Iterator[tuple[LogDensities, Examples]]:
    """A context in which a model and guide are in eval mode if they are modules or methods.

    Gradients are off. Yields their log-densities, and the batch.
    """
    with without_gradients(), _evaluating_owner(model), _evaluating_owner(guide):
        batch = _ordinary(batch)
        warn_of_autocast(batch[0].device)
        yield LogDensities(model, guide, batch, marginal=marginal), batch


def _ordinary(batch: Examples) -> Examples:
    """The batch, with copies of tensors that were made in inference mode.

    Estimators move latents along gradients, whose graphs do not save such tensors.
    """
    return tuple(entry.clone() if entry.is_inference() else entry for entry in batch)


@contextmanager
def _evaluating_owner(program: Callable[..., Any]) -> Iterator[None]:
    """A context in which the module that a program is, or is a method of, is in eval mode."""
    owner = owner_of(program)
    if owner is None:
        yield
    else:
        with evaluating(owner):
            yield


def data_hash(x: Batch) -> str:
    """Returns 16 hexadecimal digits that identify a tensor, or a tuple ``(x, *context)``.

    They are the first digits of the SHA-256 of its dtype, shape and bytes, and the same on every
    device. All bit patterns of NaN count as one. A tuple is hashed as one.

    Arguments:
        x: A tensor of any shape and dtype, or a tuple of them.

    Example:
        >>> from pyro_vae.evaluation import data_hash
        >>> len(data_hash(torch.zeros(7, 28, 28)))
        16
        >>> data_hash(torch.zeros(7, 784)) == data_hash(torch.zeros(7, 28, 28))
        False
    """
    return content_hash(as_batch(x))


def density_draw(
    vae: Pair, levels: Batch, pixels: Pixels, seed: int | None
) -> tuple[Tensor, Pixels]:
    """Returns 8-bit levels as an x on which a pair has a density, and the pixels it has.

    These are the pixels that the pair was trained on, unless these are ``"grey"``, on which there
    is no density. Grey pixels are replaced by ``"binary"`` for a likelihood on {0, 1}, and by
    ``"dequantized"`` for any other likelihood.

    Arguments:
        vae: A VAE or any :class:`Pair`.
        levels: uint8 levels of shape ``(N, *x_shape)``, or a tuple of them and their context.
        pixels: The pixels that the pair was trained on, see :func:`pyro_vae.datasets.to_pixels`.
        seed: Fixes the draw of x and leaves torch's global generator as it was; None draws from
            that generator.

    Returns:
        x of shape ``(N, *x_shape)`` in the pair's dtype, and its pixels.

    Raises:
        TypeError, ValueError: `levels` are not uint8, or `pixels` or `seed` is out of range.

    Example:
        >>> from pyro_vae.evaluation import density_draw
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16, pixels="grey")
        >>> x, pixels = density_draw(vae, torch.zeros(7, 16, dtype=torch.uint8), "grey", seed=0)
        >>> pixels, x.shape
        ('binary', torch.Size([7, 16]))
    """
    check_pair(vae)
    levels, *context = as_batch(levels, "levels")
    if pixels == "grey":
        support = _support(vae, levels[:1], [entry[:1] for entry in context])
        boolean = constraints.boolean
        is_binary = any(same_support(support, each) for each in (boolean, or_nan(boolean)))
        pixels = "binary" if is_binary else "dequantized"
    with seeded(seed, device=levels.device):
        return to_pixels(levels, pixels).to(dtype_of(vae)), pixels


@torch.no_grad()
def _support(pair: Pair, level: Tensor, context: Sequence[Tensor]) -> constraints.Constraint:
    """The support of x, given its context; `level` is one example."""
    device = device_of(pair)
    context = [entry.to(device) for entry in context]
    with evaluating(pair), seeded(0, device=device):
        if isinstance(pair, VAE):
            p_z = call(pair, "prior", context=context)
            z = p_z.sample() if p_z.batch_shape else p_z.sample((1,))
            return call(pair, "likelihood", z, context=context).support
        x = to_pixels(level, "grey").to(device, dtype_of(pair))
        with pyro.validation_enabled(False):
            densities = LogDensities(pair.model, pair.guide, (x, *context), observed=False)
            z, _ = densities.draw((x, *context), 1)
            site = observed_site(densities, (x, *context))
            return densities.distributions("model", (x, *context), z)[site].support


def over_examples(values: Tensor, variances: Tensor) -> tuple[float, float, float]:
    """Returns the mean of values, its standard error over examples, and its Monte Carlo error.

    Arguments:
        values: Estimates, shape ``(N,)``.
        variances: The Monte Carlo variance of each estimate, shape ``(N,)``.
    """
    return *mean_and_stderr(values), math.sqrt(variances.sum().item()) / len(values)


def mean_and_stderr(values: Tensor) -> tuple[float, float]:
    """Returns the mean of values and its standard error over examples (NaN for one example)."""
    count = len(values)
    error = values.std().item() / math.sqrt(count) if count > 1 else math.nan
    return values.mean().item(), error
