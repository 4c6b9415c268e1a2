"""The state before an epoch of recorded steps, to go back to."""

import copy

import torch
from torch import Tensor

from pyro_vae.compile import RandomState
from pyro_vae.optim import Held, JointOptim

__all__ = ["Kept"]


class Kept:
    """The state of a training, to go back to.

    Arguments:
        tensors: The tensors that steps read, parameters and buffers among them.
        optim: The optimizer.
    """

    def __init__(self, tensors: list[Tensor], optim: JointOptim | Held) -> None:
        assert optim.optimizer is not None
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._optimizer = optim.optimizer
        self._scheduler = optim.scheduler
        self._states = {
            parameter: {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
            for parameter, state in optim.optimizer.state.items()
        }
        self._options = [
            {k: v for k, v in group.items() if k != "params"}
            for group in optim.optimizer.param_groups
        ]
        self._schedule = copy.deepcopy(self._scheduler.state_dict()) if self._scheduler else {}
        self._random = RandomState(tensors)

    def restore(self) -> None:
        """Goes back to the state."""
        with torch.no_grad():
            for tensor, value in self._tensors:
                tensor.copy_(value)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._states)
        self.restore_rates()
        self._random.restore()

    def restore_rates(self) -> None:
        """Puts the options of the optimizer, its rates among them, and the schedule back."""
        for group, options in zip(self._optimizer.param_groups, self._options, strict=True):
            group.update(options)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(self._schedule)
