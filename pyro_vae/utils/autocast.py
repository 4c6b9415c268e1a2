"""``torch.autocast``: whether it is on, its casts of parameters, and a warning of its rounding."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_vae.utils.warn import warn

__all__ = ["autocast_dtype", "fresh_casts", "warn_of_autocast"]


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype to which ``torch.autocast`` rounds on a device, or None if it is off.

    Example:
        >>> from pyro_vae.utils.autocast import autocast_dtype
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     autocast_dtype(torch.device("cpu"))
        torch.bfloat16
    """
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


@contextmanager
def fresh_casts() -> Iterator[None]:
    """Within ``torch.autocast``, parameters are cast at each use inside the block.

    Autocast keeps casts of parameters until it ends, and so those of old values after a step.

    Example:
        >>> from pyro_vae.utils.autocast import fresh_casts
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> with torch.autocast("cpu", torch.bfloat16), fresh_casts(), torch.no_grad():
        ...     for value in (1.0, 2.0):
        ...         print(layer(layer.weight.fill_(value)).item())
        1.0
        4.0
    """
    caches = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(caches)
        torch.clear_autocast_cache()  # of casts that were made before the block


def warn_of_autocast(device: torch.device) -> None:
    """Warns if ``torch.autocast`` is on, in which not only networks but densities are rounded.

    Arguments:
        device: That of the densities.
    """
    if (dtype := autocast_dtype(device)) is not None:
        warn(
            f"autocast: got torch.autocast to {dtype}, which rounds noise and densities too; "
            'expected fit(..., precision="bf16") or networks.bfloat16(vae), which round within '
            "the networks alone"
        )
