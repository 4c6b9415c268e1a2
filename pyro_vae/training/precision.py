"""Networks in bfloat16, with float32 parameters and densities."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pyro_vae.compat import has_bfloat16_products
from pyro_vae.networks import bfloat16
from pyro_vae.utils.modules import device_of, dtype_of
from pyro_vae.vae import VAE


@dataclass(frozen=True)
class _InBfloat16:
    """A method of a VAE with its networks in bfloat16; equal where VAE and method are."""

    vae: VAE
    method: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        with bfloat16(self.vae):
            return self.method(*args)


def program(vae: VAE, precision: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The model and guide that :func:`fit` trains, networks in the precision asked for."""
    if precision == "float32":
        return vae.model, vae.guide
    return _InBfloat16(vae, vae.model), _InBfloat16(vae, vae.guide)


def check_precision(vae: VAE, precision: str) -> None:
    """Raises ValueError unless a VAE can be trained in a precision; warns where it is slow.

    Warns:
        UserWarning: The processor has no bfloat16 products.
    """
    if precision not in ("float32", "bf16"):
        raise ValueError(f'precision: got {precision!r}, expected "float32" or "bf16"')
    if precision == "float32":
        return
    if dtype_of(vae) != torch.float32:
        raise ValueError(
            f"precision: got 'bf16' for a VAE of {dtype_of(vae)}, expected one of torch.float32"
        )
    with bfloat16(vae):  # raises where there is no network
        pass
    device = device_of(vae)
    fast = (
        has_bfloat16_products()
        if device.type == "cpu"
        else device.type != "cuda" or torch.cuda.is_bf16_supported()
    )
    if not fast:
        warnings.warn(
            "precision: this processor has no bfloat16 products, so 'bf16' is slower than "
            "'float32' here",
            stacklevel=4,
        )
