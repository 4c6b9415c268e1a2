"""Checks of x alone: its type, its shape and its numbers."""

from collections.abc import Sequence

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from pyro_vae.contracts.holes import check_entries
from pyro_vae.utils.checks import check_examples, kind
from pyro_vae.utils.modules import dtype_of

__all__ = ["check_data", "check_dtype", "check_float"]


def check_data(
    x: Tensor,
    argument: str = "x",
    pair: nn.Module | None = None,
    context: Sequence[Tensor] = (),
) -> None:
    """Raises TypeError or ValueError unless x has finite floats and shape ``(N, *x_shape)``.

    Arguments:
        x: The data.
        argument: Its name.
        pair: The pair that takes it, with NaN if it takes that too, see :func:`check_entries`.
        context: What is given with x.
    """
    check_float(argument, x)
    if x.dim() < 2:
        raise ValueError(
            f"{argument}: got shape {tuple(x.shape)}, expected (N, *x_shape) with one dimension "
            "of x or more, such as x.unsqueeze(-1)"
        )
    check_examples(argument, x)
    if is_validation_enabled():  # It reads values, so Pyro's switch for such checks applies.
        check_entries(argument, x, pair, context)


def check_dtype(argument: str, value: Tensor, vae: nn.Module) -> None:
    """Raises TypeError unless `value` has the VAE's dtype."""
    if value.dtype != dtype_of(vae):
        raise TypeError(f"{argument}: got {value.dtype}, expected the VAE's {dtype_of(vae)}")


def check_float(argument: str, value: Tensor) -> None:
    """Raises TypeError unless `value` is a floating-point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument}: got {kind(value)}, expected a torch.Tensor")
    if not value.is_floating_point():
        hint = (
            "; datasets.to_pixels(levels, pixels, seed) and fit(pixels=...) convert 8-bit levels"
            if value.dtype == torch.uint8
            else ""
        )
        raise TypeError(f"{argument}: got {value.dtype}, expected a floating-point tensor{hint}")
