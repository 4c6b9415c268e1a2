"""Training precision: networks in bfloat16, with parameters and densities in float32."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pyro_vae.compat import has_bfloat16_products
from pyro_vae.networks import bfloat16
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.autocast import warn_of_autocast
from pyro_vae.utils.modules import device_of, dtype_of
from pyro_vae.utils.warn import warn

__all__ = ["check_precision", "program"]


@dataclass(frozen=True)
class _InBfloat16:
    """A method of a pair that computes its networks in bfloat16.

    Two of them are equal if pair and method are, so compiled code is found again.
    """

    vae: Pair
    method: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        with bfloat16(self.vae):
            return self.method(*args)


def program(vae: Pair, precision: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The model and the guide of a pair, with the networks in a precision.

    Arguments:
        vae: The pair.
        precision: ``"float32"`` or ``"bf16"``.
    """
    check_pair(vae)
    _check_name(precision)
    if precision == "float32":
        return vae.model, vae.guide
    return _InBfloat16(vae, vae.model), _InBfloat16(vae, vae.guide)


def _check_name(precision: object) -> None:
    if precision not in ("float32", "bf16"):
        raise ValueError(f'precision: got {precision!r}, expected "float32" or "bf16"')


def check_precision(vae: Pair, precision: str) -> None:
    """Raises ValueError unless a pair can be trained in a precision.

    Arguments:
        vae: The pair.
        precision: ``"float32"`` or ``"bf16"``.

    Warns:
        UserWarning: The processor has no matrix products in bfloat16; ``torch.autocast`` is on.
    """
    _check_name(precision)
    warn_of_autocast(device_of(vae))
    if precision == "float32":
        return
    if dtype_of(vae) != torch.float32:
        raise ValueError(
            f"precision: got 'bf16' for a pair of {dtype_of(vae)}, expected one of torch.float32"
        )
    with bfloat16(vae):  # It raises if no part has a network.
        pass
    device = device_of(vae)
    fast = (
        has_bfloat16_products()
        if device.type == "cpu"
        else device.type != "cuda" or torch.cuda.is_bf16_supported()
    )
    if not fast:
        warn(
            "precision: got 'bf16' on a processor without matrix products in bfloat16, where it "
            "is slower than 'float32'"
        )
