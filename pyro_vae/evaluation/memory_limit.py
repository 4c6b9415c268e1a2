"""The argument ``max_bytes``: how much memory one step of an evaluation may take."""

from typing import Literal

import torch

from pyro_vae.utils.checks import check_count

CPU_BYTES = 2**28
"""The bytes of a step on a CPU, unless a number is given."""

MaxBytes = int | Literal["auto"]
"""A number of bytes, or ``"auto"`` for what the device has to spare."""


def check_max_bytes(max_bytes: MaxBytes) -> None:
    """Raises TypeError or ValueError unless it is a positive integer or ``"auto"``."""
    if isinstance(max_bytes, str) and max_bytes != "auto":
        raise ValueError(f'max_bytes: got {max_bytes!r}, expected a number of bytes or "auto"')
    if max_bytes != "auto":
        check_count("max_bytes", max_bytes)


def bytes_for(max_bytes: MaxBytes, device: torch.device) -> int:
    """The number of bytes that a step may allocate: at most half of what a GPU has left.

    Arguments:
        max_bytes: The argument.
        device: Where the model runs.
    """
    if max_bytes != "auto":
        return max_bytes
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_BYTES
