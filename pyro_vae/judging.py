"""What every judgement takes: examples held against a VAE, hashes, means over examples."""

import hashlib
import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae import datasets
from pyro_vae.arguments import check_count, check_seed
from pyro_vae.datasets import Pixels
from pyro_vae.divergences import describe
from pyro_vae.programs import Program
from pyro_vae.seeding import seeded
from pyro_vae.supports import check_on_support, same_support
from pyro_vae.vae import (
    VAE,
    call,
    check_data,
    check_dtype,
    device_of,
    dtype_of,
    evaluating,
    examine,
)


def check_arguments(x: Tensor | None, seed: int | None, max_bytes: int) -> Tensor:
    """What an estimator was given, x with examples in it; raises TypeError, ValueError."""
    check_seed(seed)
    check_count("max_bytes", max_bytes)
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a torch.Tensor")
    if not x.dim() or not len(x):
        raise ValueError(f"x: got no examples (shape {tuple(x.shape)}), expected at least one")
    return x


def check_vae(vae: object) -> None:
    """Raises TypeError unless it is a VAE."""
    if not isinstance(vae, VAE):
        raise TypeError(f"vae: got a {type(vae).__name__}, expected a VAE")


def evaluating_vae(vae: VAE) -> AbstractContextManager[None]:
    """Eval mode for a block; raises TypeError unless it is a VAE."""
    check_vae(vae)
    return evaluating(vae)


def prepared(vae: VAE, x: Tensor) -> tuple[Program, Tensor]:
    """A VAE in eval mode as a program, and data on its device, held against it.

    Raises:
        TypeError, ValueError: x does not fit the VAE or is off its likelihood's support; the
            posterior is a point mass.
    """
    check_data(x)
    check_dtype("x", x, vae)
    x = x.to(device_of(vae))
    q_z, p_x = examine(vae, x[:1], x.shape)
    if "Delta" in describe(q_z):
        raise ValueError(
            f"posterior: got {describe(q_z)}, expected a density: a point mass has no importance "
            "weights"
        )
    check_on_support("x", x, p_x.support)
    return Program(vae.model, vae.guide, x), x


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
