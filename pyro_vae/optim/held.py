"""Optimizers of torch that hold their parameters already, as Pyro optimizers."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.optim.joint import from_torch
from pyro_vae.utils.checks import kind

__all__ = ["Held", "as_pyro"]


class Held(PyroOptim):
    """A torch optimizer that holds its parameters already, as a Pyro optimizer.

    After a step, the gradients of its parameters are None. Parameters that it does not hold are
    left as they are.

    Arguments:
        optimizer: The torch optimizer.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Held(adam), objectives.trace_elbo())
        >>> isinstance(svi.step(torch.ones(7, 16)), float)
        True
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer: got {kind(optimizer)}, expected a torch.optim.Optimizer")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise TypeError(
                "optimizer: got LBFGS, expected an optimizer that does not need a closure"
            )
        if isinstance(optimizer, torch.optim.SparseAdam):
            raise TypeError("optimizer: got SparseAdam, expected one that takes dense gradients")
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer
        self.scheduler = None  # That of the user advances where the user says.

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Takes one step.

        Arguments:
            params: Not used: the optimizer has its own.
            args, kwargs: Passed on to the torch optimizer's ``step``.
        """
        self.update(params, *args, **kwargs)

    def join(self, params: Iterable[Tensor]) -> None:
        """Does nothing: the optimizer holds its parameters."""

    def update(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Takes one step, as a call does."""
        self.optimizer.step(*args, **kwargs)
        self.optimizer.zero_grad(set_to_none=True)

    def get_state(self) -> dict[str, Any]:
        """The ``state_dict`` of the torch optimizer."""
        return copy.deepcopy(self.optimizer.state_dict())

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Loads a state from :meth:`get_state`."""
        self.optimizer.load_state_dict(copy.deepcopy(state_dict))


def as_pyro(optimizer: Any, argument: str = "optim") -> PyroOptim:
    """A Pyro optimizer, from one of Pyro or torch or a class of torch's.

    Arguments:
        optimizer: A ``PyroOptim``, a ``torch.optim.Optimizer``, or a class of those, which is used
            with its default options.
        argument: The name of the argument in error messages.

    Raises:
        TypeError: It is none of these.

    Example:
        >>> optim.as_pyro(torch.optim.SGD).pt_optim_constructor.__name__
        'SGD'
    """
    if isinstance(optimizer, PyroOptim):
        return optimizer
    if isinstance(optimizer, torch.optim.Optimizer):
        return Held(optimizer)
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return from_torch(optimizer)
    raise TypeError(
        f"{argument}: got {kind(optimizer)}, expected a pyro.optim.PyroOptim such as "
        "pyro_vae.optim.Adam(lr=1e-3), or an optimizer of torch.optim"
    )
