"""What every evaluation takes: data held against a model, hashes, means over examples."""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import datasets
from pyro_vae.contracts import call, check
from pyro_vae.datasets import Pixels
from pyro_vae.distributions import check_on_support, describe_distribution, same_support
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE, check_vae


def check_arguments(x: Tensor | None, seed: int | None, max_bytes: int) -> Tensor:
    """What an estimator was given, x with examples in it; raises TypeError, ValueError."""
    check_seed(seed)
    check_count("max_bytes", max_bytes)
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a torch.Tensor")
    if not x.dim() or not len(x):
        raise ValueError(f"x: got no examples (shape {tuple(x.shape)}), expected at least one")
    return x


@contextmanager
def opened(vae: VAE, x: Tensor) -> Iterator[tuple[LogDensities, Tensor]]:
    """A VAE in eval mode as log-densities, and data on its device that fit it; no gradients.

    Raises:
        TypeError, ValueError: It is no VAE; x does not fit it or is off its likelihood's support;
            the posterior is a point mass.
    """
    check_vae(vae)
    with torch.no_grad(), evaluating(vae):
        checked = check(vae, x)
        if "Delta" in describe_distribution(checked.posterior):
            raise ValueError(
                f"posterior: got {describe_distribution(checked.posterior)}, expected a density: a point mass "
                "has no importance weights"
            )
        check_on_support("x", checked.x, checked.support)
        yield LogDensities(vae.model, vae.guide, checked.x), checked.x


@contextmanager
def opened_pair(
    model: Callable[[Tensor], Any], guide: Callable[[Tensor], Any], x: Tensor
) -> Iterator[tuple[LogDensities, Tensor]]:
    """A model and guide as log-densities, those that are modules in eval mode; no gradients."""
    with torch.no_grad(), _evaluating_owner(model), _evaluating_owner(guide):
        yield LogDensities(model, guide, x), x


@contextmanager
def _evaluating_owner(program: Callable[..., Any]) -> Iterator[None]:
    """Eval mode for a module, or for the one whose method a program is, whatever wraps it."""
    owner: Any = program
    while owner is not None and not isinstance(owner, nn.Module):
        # A handler such as `poutine.mask(model)` keeps what it wraps as `fn`, a partial as `func`.
        owner = next(
            (
                getattr(owner, name)
                for name in ("__self__", "fn", "func", "__wrapped__")
                if getattr(owner, name, None) is not None
            ),
            None,
        )
    if owner is None:
        yield
    else:
        with evaluating(owner):
            yield


def data_hash(x: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a tensor's shape, dtype and bytes."""
    digest = hashlib.sha256(f"{x.dtype}{tuple(x.shape)}".encode())
    digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def density_draw(
    vae: VAE, levels: Tensor, pixels: Pixels, seed: int | None
) -> tuple[Tensor, Pixels]:
    """8-bit levels as x on which the VAE has a density, and which pixels these are.

    They are those it was trained on, but for grey ones, on which there is no density: then they
    are binarized for a likelihood on {0, 1}, and dequantized for any other.
    """
    if pixels == "grey":
        with torch.no_grad(), evaluating(vae), seeded(0, device=device_of(vae)):
            support = call(vae, "likelihood", call(vae, "prior").sample((1,))).support
        pixels = "binary" if same_support(support, constraints.boolean) else "dequantized"
    with seeded(seed, device=levels.device):
        return datasets.to_pixels(levels, pixels).to(dtype_of(vae)), pixels


def over_examples(values: Tensor, variances: Tensor) -> tuple[float, float, float]:
    """Mean, its standard error over examples, and its Monte Carlo error from each variance."""
    return *mean_and_stderr(values), math.sqrt(variances.sum().item()) / len(values)


def mean_and_stderr(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error over examples, which is NaN for one."""
    count = len(values)
    error = values.std().item() / math.sqrt(count) if count > 1 else math.nan
    return values.mean().item(), error
