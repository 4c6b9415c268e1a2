"""Modules of torch: their modes, devices and dtypes."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode for a block, then each submodule back into its own."""
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        yield
    finally:
        for m in training:
            m.training = True


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: the device of its parameters, or else of its buffers."""
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.get_default_device() if tensor is None else tensor.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """What a module computes in: the dtype of its first floating-point parameter or buffer."""
    tensors = chain(module.parameters(), module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())
