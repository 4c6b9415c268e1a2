"""A step of torch's fused Adam on a CPU, without the Python that torch has around it."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compat import fused_adam, has_hooks

__all__ = ["FusedAdam"]


class FusedAdam:
    """The tensors of a ``torch.optim.Adam``, as the lists that its fused kernel takes.

    The step is that of the optimizer, bit for bit.

    Arguments:
        optimizer: The optimizer, which has taken a step.
        params: The parameters that have gradients in each step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, params: Collection[Tensor]) -> None:
        self._optimizer = optimizer
        (self._group,) = optimizer.param_groups
        self._trained = list(params)
        self._set = set(params)
        states: dict[Tensor, dict[str, Any]] = optimizer.state
        self._states = [states[p] for p in self._trained]
        # Each step count is a place in one vector, so that one addition counts for all.
        self._counts = torch.stack([state["step"] for state in self._states])
        for state, count in zip(self._states, self._counts, strict=True):
            state["step"] = count
        self._steps = [state["step"] for state in self._states]
        self._means = [state["exp_avg"] for state in self._states]
        self._squares = [state["exp_avg_sq"] for state in self._states]

    @staticmethod
    def fits(optimizer: torch.optim.Optimizer, params: Collection[Tensor]) -> bool:
        """Whether the step of an optimizer is one call of the kernel for parameters on a CPU."""
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) > 1:
            return False
        if optimizer.param_groups[0]["fused"] is not True:
            return False
        state = optimizer.state
        return all(
            p.device.type == "cpu" and p.dtype == torch.float32 and len(state.get(p, ())) == 3
            for p in params
        )

    def holds(self, params: set[Tensor]) -> bool:
        """Whether the optimizer's next step is one for these parameters, and still a plain one."""
        group, state = self._group, self._optimizer.state
        return (
            params == self._set
            and group["fused"]
            and not (group["amsgrad"] or group["maximize"] or group["differentiable"])
            and isinstance(group["lr"], float)
            and "step" not in vars(self._optimizer)  # A schedule has its own.
            and not has_hooks(self._optimizer)
            and all(p.grad is not None and p.grad.layout == torch.strided for p in self._trained)
            and all(
                state.get(p) is own and own["step"] is step
                for p, own, step in zip(self._trained, self._states, self._steps, strict=True)
            )
        )

    def step(self) -> None:
        """Takes a step, and sets the gradients to None."""
        gradients = [p.grad for p in self._trained]
        self._counts += 1
        fused_adam(self._trained, gradients, self._means, self._squares, self._steps, self._group)
        for p in self._trained:
            p.grad = None
