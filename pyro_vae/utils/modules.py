"""Modes, devices and dtypes of torch modules, and functions as modules."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_vae.utils.autocast import fresh_casts

__all__ = [
    "Function",
    "count_of",
    "counted",
    "counts_of",
    "device_of",
    "dtype_of",
    "evaluating",
    "owner_of",
    "without_gradients",
]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode inside the block; afterwards each submodule has its mode back.

    Casts of ``torch.autocast`` are fresh; see :func:`~pyro_vae.utils.autocast.fresh_casts`.

    Example:
        >>> from pyro_vae.utils.modules import evaluating
        >>> module = torch.nn.Dropout()
        >>> with evaluating(module):
        ...     print(module.training)
        False
        >>> module.training
        True
    """
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        with fresh_casts():
            yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def without_gradients() -> Iterator[None]:
    """Gradients are off inside the block, and may be turned on in it.

    In ``torch.inference_mode`` they may not, so the block leaves that. Tensors that were made in
    it need a ``clone`` to take part.

    Example:
        >>> from pyro_vae.utils.modules import without_gradients
        >>> with torch.inference_mode(), without_gradients(), torch.enable_grad():
        ...     (2 * torch.ones(3, requires_grad=True)).requires_grad
        True
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


def count_of(parameters: Iterable[Tensor]) -> int:
    """The number of numbers in some parameters; those of a lazy module count when it has run.

    Example:
        >>> from pyro_vae.utils.modules import count_of
        >>> count_of(torch.nn.Linear(2, 3).parameters())
        9
    """
    return sum(0 if is_lazy(p) else p.numel() for p in parameters)


def counted(module: nn.Module) -> str:
    """The numbers of trained and of fixed parameters in words.

    Example:
        >>> from pyro_vae.utils.modules import counted
        >>> counted(torch.nn.Linear(200, 10))
        '2,010 trained'
    """
    trained = count_of(p for p in module.parameters() if p.requires_grad)
    fixed = count_of(module.parameters()) - trained
    return f"{trained:,} trained" + (f", {fixed:,} fixed" if fixed else "")


def counts_of(parts: Mapping[str, nn.Module]) -> dict[str, str]:
    """The same of each part by name, and how many it shares with another one.

    Example:
        >>> from pyro_vae.utils.modules import counts_of
        >>> counts_of({"prior": torch.nn.Identity(), "likelihood": torch.nn.Linear(2, 3)})
        {'prior': '0 trained', 'likelihood': '9 trained'}
    """
    ids = {part: {id(p) for p in module.parameters()} for part, module in parts.items()}
    found = {}
    for part, module in parts.items():
        found[part] = counted(module)
        for other, theirs in ids.items():
            shared = count_of(p for p in module.parameters() if id(p) in theirs)
            if other != part and shared:
                found[part] += f" ({shared:,} shared with the {other})"
    return found


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter or buffer, or torch's default device.

    Example:
        >>> from pyro_vae.utils.modules import device_of
        >>> device_of(torch.nn.Linear(2, 2)).type
        'cpu'
    """
    tensor = next(chain(module.parameters(), module.buffers()), None)
    return torch.get_default_device() if tensor is None else tensor.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a module's first floating-point parameter or buffer, or torch's default.

    Example:
        >>> from pyro_vae.utils.modules import dtype_of
        >>> dtype_of(torch.nn.Linear(2, 2).double())
        torch.float64
    """
    tensors = chain(module.parameters(), module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())


def owner_of(program: Callable[..., Any]) -> nn.Module | None:
    """The module that a program is, or of which it is a method; None if there is none."""
    owner: Any = program
    while owner is not None and not isinstance(owner, nn.Module):
        # A handler such as `poutine.mask(model)` wraps a function `fn`, a partial one `func`.
        owner = next(
            (
                getattr(owner, name)
                for name in ("__self__", "fn", "func", "__wrapped__")
                if getattr(owner, name, None) is not None
            ),
            None,
        )
    return owner


class Function(nn.Module):
    """A module that calls a function, whose own parameters it does not hold."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)

    def extra_repr(self) -> str:
        function = self.function
        while isinstance(function, partial):
            function = function.func
        # A repr has an address, so the structure that `save` writes would differ by process.
        return getattr(function, "__qualname__", type(function).__qualname__)
