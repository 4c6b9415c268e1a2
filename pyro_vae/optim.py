"""Pyro optimizers that step all parameters in one torch optimizer."""

import copy
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

Schedule = Callable[[torch.optim.Optimizer], LRScheduler]
"""Makes a learning-rate scheduler of a torch optimizer; it is stepped once a training step."""


class JointOptim(PyroOptim):
    r"""A ``PyroOptim`` that holds one torch optimizer for all parameters.

    Pyro's own make one torch optimizer for each parameter. One for all takes less time, may be a
    fused one, clips by the norm of the whole gradient, and has one learning-rate schedule. A
    parameter whose name comes up later joins it. A step uses gradients up: they are None after it.

    Arguments:
        cls: A ``torch.optim.Optimizer``.
        kwargs: Its options.
        clip_norm: Scales the gradient, over all parameters of a step, to at most this norm.
        schedule: Makes a scheduler from ``torch.optim.lr_scheduler`` of the optimizer, such as
            ``lambda optimizer: ExponentialLR(optimizer, 0.999)``; it advances at each step.

    Attributes:
        optimizer: The torch optimizer; None before the first step.
        scheduler: The torch scheduler; None before the first step, and without a schedule.

    Raises:
        TypeError: `cls` is no optimizer class, or takes no such option; the schedule is no
            function, or makes no scheduler that goes by steps.
        ValueError: An option or the clipping norm is out of range.
    """

    def __init__(
        self,
        cls: type[torch.optim.Optimizer],
        kwargs: dict[str, Any],
        clip_norm: float | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            raise TypeError(f"cls: got {cls!r}, expected a torch.optim.Optimizer class")
        if issubclass(cls, torch.optim.LBFGS):
            raise TypeError("cls: got LBFGS, expected an optimizer that needs no closure")
        if clip_norm is not None and not (
            isinstance(clip_norm, int | float)
            and not isinstance(clip_norm, bool)
            and 0 < clip_norm < math.inf
        ):
            raise ValueError(f"clip_norm: got {clip_norm!r}, expected a positive number or None")
        if schedule is not None and not callable(schedule):
            raise TypeError(
                f"schedule: got {schedule!r}, expected a function of a torch optimizer that makes "
                "a scheduler"
            )
        super().__init__(cls, kwargs)
        self.clip_norm = clip_norm
        self.schedule = schedule
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self._names: dict[Tensor, str] = {}
        # What is wrong with options or schedule is said now, not at the first step.
        self._make([torch.zeros(1, requires_grad=True)])

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Takes one step for `params`, which are unconstrained parameters of Pyro's."""
        params = set(params)
        self._join([p for p in params if p not in self._names])
        if self.optimizer is None:
            return
        self._consume(params)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([p for p in self._names if p in params], self.clip_norm)
        # A parameter that is not in this step stays where it is, momentum or not.
        absent = [(p, p.grad) for p in self._names if p not in params and p.grad is not None]
        for parameter, _ in absent:
            parameter.grad = None
        self.optimizer.step(*args, **kwargs)
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in absent:
            parameter.grad = gradient
        if self.scheduler is not None:
            self.scheduler.step()

    def get_state(self) -> dict[str, Any]:
        """A copy of the state by the parameters' names, of the options, and of the schedule's.

        Raises:
            ValueError: A parameter has no name in Pyro's store.
        """
        waiting = self._state_waiting_to_be_consumed
        if self.optimizer is None:
            return copy.deepcopy(waiting)
        if "" in self._names.values():
            raise ValueError(
                "get_state: a parameter has no name in Pyro's store, expected those of SVI steps"
            )
        store = pyro.get_param_store()._params
        parameters: dict[str, Any] = {}
        for parameter, name in self._names.items():
            # Of two parameters that bore a name in turn, the one that bears it.
            if name not in parameters or store.get(name) is parameter:
                parameters[name] = self.optimizer.state.get(parameter, {})
        options = {k: v for k, v in self.optimizer.param_groups[0].items() if k != "params"}
        schedule = None if self.scheduler is None else self.scheduler.state_dict()
        return copy.deepcopy(
            {
                "optimizer": self.pt_optim_constructor.__name__,
                "parameters": {**parameters, **waiting.get("parameters", {})},
                "options": waiting.get("options") or options,
                "schedule": waiting.get("schedule") or schedule,
            }
        )

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state that :meth:`get_state` gave: each parameter's at its next step.

        Raises:
            ValueError: The state is another optimizer's, or has a schedule where this one has
                none, or none where it has one; at a step, a parameter's has another shape.
        """
        keys = {"optimizer", "parameters", "options", "schedule"}
        if state_dict and state_dict.keys() != keys:
            raise ValueError(
                f"state_dict: got the keys {sorted(map(str, state_dict))}, expected those that "
                f"get_state of this optimizer gives: {', '.join(sorted(keys))}"
            )
        own = self.pt_optim_constructor.__name__
        if state_dict and state_dict["optimizer"] != own:
            raise ValueError(
                f"state_dict: got that of a {state_dict['optimizer']}, expected one of {own}"
            )
        if state_dict and (state_dict["schedule"] is None) != (self.schedule is None):
            has, wants = ("no", "one") if self.schedule else ("a", "none")
            raise ValueError(f"state_dict: has {has} schedule's state, expected {wants}")
        self._state_waiting_to_be_consumed = copy.deepcopy(state_dict)

    def _make(self, params: list[Tensor]) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
        optimizer = self.pt_optim_constructor(params, **self.pt_optim_args)
        if self.schedule is None:
            return optimizer, None
        scheduler = self.schedule(optimizer)
        if not isinstance(scheduler, LRScheduler) or isinstance(
            scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau
        ):
            raise TypeError(
                f"schedule: made a {type(scheduler).__name__}, expected a scheduler of "
                "torch.optim.lr_scheduler that goes by steps"
            )
        return optimizer, scheduler

    def _join(self, params: list[Tensor]) -> None:
        if not params:
            return
        store = pyro.get_param_store()
        named = sorted((store.param_name(p) or "", i) for i, p in enumerate(params))
        params = [params[i] for _, i in named]
        self._names.update(zip(params, (name for name, _ in named), strict=True))
        if self.optimizer is None:
            self.optimizer, self.scheduler = self._make(params)
        else:
            # Into the one group that there is: a group of its own would be a step of its own.
            self.optimizer.param_groups[0]["params"].extend(params)

    def _consume(self, params: Iterable[Tensor]) -> None:
        """Gives the optimizer what of a loaded state belongs to the parameters of a step."""
        waiting = self._state_waiting_to_be_consumed
        if self.optimizer is None or not waiting:
            return
        states = waiting["parameters"]
        for parameter in params:
            name = self._names[parameter]
            if name in states:
                self.optimizer.state[parameter] = _fitted(name, states.pop(name), parameter)
        if waiting["options"]:
            self.optimizer.param_groups[0].update(waiting["options"])
            waiting["options"] = {}
        if self.scheduler is not None and waiting["schedule"] is not None:
            self.scheduler.load_state_dict(waiting["schedule"])
            waiting["schedule"] = None


def _fitted(name: str, state: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """A copy of a parameter's state on its device; raises ValueError if it is another shape's."""
    fitted = {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
            raise ValueError(
                f"state_dict: {key} of {name!r} has shape {tuple(value.shape)}, expected "
                f"{tuple(parameter.shape)}"
            )
        if isinstance(value, Tensor) and value.dim():
            fitted[key] = torch.empty_like(parameter, dtype=_dtype(value, parameter)).copy_(value)
        else:
            fitted[key] = value.clone() if isinstance(value, Tensor) else value
    return fitted


def _dtype(value: Tensor, parameter: Tensor) -> torch.dtype:
    return parameter.dtype if value.is_floating_point() else value.dtype


def from_torch(
    cls: type[torch.optim.Optimizer],
    *,
    clip_norm: float | None = None,
    schedule: Schedule | None = None,
    **kwargs: Any,
) -> JointOptim:
    """Any torch optimizer, one for all parameters, as a Pyro optimizer; see :class:`JointOptim`.

    Raises:
        TypeError, ValueError: As :class:`JointOptim`.
    """
    return JointOptim(cls, kwargs, clip_norm, schedule)


def Adam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    schedule: Schedule | None = None,
) -> JointOptim:
    """torch's fused Adam, one for all parameters, as a Pyro optimizer; see :class:`JointOptim`.

    Source: Kingma and Ba (2015), algorithm 1.

    Raises:
        TypeError, ValueError: As :class:`JointOptim`.
    """
    if not isinstance(lr, numbers.Real | Tensor):
        raise TypeError(f"lr: got {lr!r}, expected a number, as in optim.Adam(lr=1e-3)")
    options = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "fused": True}
    return JointOptim(torch.optim.Adam, options, clip_norm, schedule)
