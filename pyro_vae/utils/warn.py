"""Warnings that show the line of the user's program."""

import inspect
import warnings

import torch

__all__ = ["warn", "warn_of_autocast"]

_INNER = "pyro_vae", "pyro", "torch", "contextlib"


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the nearest line that is neither in this package, nor in Pyro or torch.

    Arguments:
        message: The text.
        category: The kind of warning.

    Example:
        >>> import warnings
        >>> from pyro_vae.utils.warn import warn
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("a text")
        >>> caught[0].message
        UserWarning('a text')
    """
    frame, level = inspect.currentframe(), 0
    while frame is not None and (not level or _is_inner(frame.f_globals)):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)


def warn_of_autocast(device: torch.device) -> None:
    """Warns if ``torch.autocast`` is on, in which not only networks but densities are rounded.

    Arguments:
        device: That of the densities.
    """
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        warn(
            f"autocast: got torch.autocast to {dtype}, which rounds noise and densities too; "
            'expected fit(..., precision="bf16") or networks.bfloat16(vae), which round within '
            "the networks alone"
        )


def _is_inner(names: dict[str, object]) -> bool:
    return str(names.get("__name__")).partition(".")[0] in _INNER
