"""One torch optimizer for all parameters as a Pyro optimizer."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae.compat import stored_parameters
from pyro_vae.optim.fused import FusedAdam
from pyro_vae.utils.checks import check_number, is_sequence, kind, plain

__all__ = ["Adam", "JointOptim", "Schedule", "from_torch"]


Schedule = Callable[[torch.optim.Optimizer], LRScheduler]
"""Returns a learning-rate scheduler for a torch optimizer; it advances once a training step.

A ``ReduceLROnPlateau`` advances once an epoch, with the cost that :func:`fit` gives it.
"""


class JointOptim(PyroOptim):
    r"""A ``PyroOptim`` that holds one torch optimizer for all parameters.

    Pyro's own optimizers make one torch optimizer for each parameter. A single one is faster, can
    be fused, clips by the norm of the whole gradient, and has one learning-rate schedule.
    Parameters that appear later are added to it. After a step, the gradients of its parameters are
    None.

    Arguments:
        cls: A subclass of ``torch.optim.Optimizer``.
        kwargs: Its options.
        clip_norm: The largest norm of a step's gradient, over all parameters; larger gradients are
            scaled down to it. None does not clip.
        schedule: Maps the torch optimizer to a scheduler of ``torch.optim.lr_scheduler``, such as
            ``lambda optimizer: ExponentialLR(optimizer, 0.999)``; it advances at each step. A
            ``ReduceLROnPlateau`` advances in :meth:`end_epoch`.

    Attributes:
        optimizer: The torch optimizer; None before the first step.
        scheduler: The torch scheduler; None before the first step, and without a schedule.

    Raises:
        TypeError: `cls` is not an optimizer class or does not have such an option; `clip_norm` is
            not a number; or `schedule` is not a function, or does not return a torch scheduler.
        ValueError: An option or `clip_norm` is out of range.

    Example:
        >>> optimizer = optim.JointOptim(torch.optim.SGD, {"lr": 0.1}, clip_norm=1.0)
        >>> weight = torch.ones(3, requires_grad=True)
        >>> weight.square().sum().backward()
        >>> optimizer([weight])  # one step; pyro.infer.SVI makes this call
        >>> bool((weight < 1).all())
        True
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
            raise TypeError("cls: got LBFGS, expected an optimizer that does not need a closure")
        if issubclass(cls, torch.optim.SparseAdam):
            raise TypeError("cls: got SparseAdam, expected one that takes dense gradients")
        check_number("clip_norm", clip_norm, above=0, none=True)
        if schedule is not None and not callable(schedule):
            raise TypeError(
                f"schedule: got {schedule!r}, expected a function from a torch optimizer to a "
                "scheduler"
            )
        if isinstance(kwargs, dict):  # A tensor stays one: a schedule may change it in place.
            kwargs = {n: v if isinstance(v, Tensor) else plain(v) for n, v in kwargs.items()}
        super().__init__(cls, kwargs)
        if isinstance(kwargs, dict) and cls.__module__.startswith("torch."):
            _check_options(kwargs)
        self.clip_norm = plain(clip_norm)
        self.schedule = schedule
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: LRScheduler | None = None
        self._names: dict[Tensor, str] = {}
        self._fused: FusedAdam | None = None
        # Errors in the options or the schedule are raised here and not at the first step.
        _, scheduler = self._make([torch.zeros(1, requires_grad=True)])
        self.schedule_name = None if scheduler is None else type(scheduler).__name__
        """The class of the scheduler."""
        self.needs_cost = isinstance(scheduler, ReduceLROnPlateau)
        """Whether :meth:`end_epoch` has to be called, with a cost, after each epoch."""

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Takes one step.

        Arguments:
            params: Unconstrained parameters of Pyro, with gradients; others do not change.
            args, kwargs: Passed on to the torch optimizer's ``step``.
        """
        self.update(params, *args, **kwargs)
        self.advance()

    def join(self, params: Iterable[Tensor]) -> None:
        """Makes the torch optimizer and the schedule, or adds parameters that are new.

        The first step does this too.
        """
        params = set(params)
        self._join([p for p in params if p not in self._names])
        if self.optimizer is not None:
            self._consume(params)

    def update(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Takes one step, and leaves the schedule where it is."""
        params = set(params)
        self.join(params)
        if self.optimizer is None:
            return
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([p for p in self._names if p in params], self.clip_norm)
        # Without a gradient, the optimizer leaves a parameter as it is, whatever its momentum.
        absent = [(p, p.grad) for p in self._names if p not in params and p.grad is not None]
        for parameter, _ in absent:
            parameter.grad = None
        if args or kwargs or self._fused is None or not self._fused.holds(params):
            self._fused = None
            self.optimizer.step(*args, **kwargs)
            self.optimizer.zero_grad(set_to_none=True)
            if FusedAdam.fits(self.optimizer, params):
                self._fused = FusedAdam(self.optimizer, params)
        else:
            self._fused.step()
        for parameter, gradient in absent:
            parameter.grad = gradient

    def advance(self) -> None:
        """Advances the schedule by one step; a ``ReduceLROnPlateau`` stays."""
        if self.scheduler is not None and not self.needs_cost:
            self.scheduler.step()

    def end_epoch(self, cost: float) -> None:
        """Advances a ``ReduceLROnPlateau`` with the cost of an epoch; other schedules stay."""
        if self.scheduler is not None and self.needs_cost:
            self.scheduler.step(cost)  # type: ignore[arg-type]

    def schedule_state(self) -> dict[str, Any] | None:
        """The state that the schedule has at its start; None without one."""
        _, scheduler = self._make([torch.zeros(1, requires_grad=True)])
        return None if scheduler is None else scheduler.state_dict()

    def get_state(self) -> dict[str, Any]:
        """A copy of the state by parameter name, of the options, and of the schedule's state.

        Raises:
            ValueError: A parameter has no name in Pyro's parameter store.
        """
        waiting = self._state_waiting_to_be_consumed
        if self.optimizer is None:
            return copy.deepcopy(waiting)
        if "" in self._names.values():
            raise ValueError(
                "get_state: got a parameter that has no name in Pyro's parameter store, expected "
                "parameters from SVI"
            )
        store = stored_parameters()
        parameters: dict[str, Any] = {}
        for parameter, name in self._names.items():
            # Two parameters may have had the same name; take the one that has it now.
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
        """Loads a state from :meth:`get_state`; that of each parameter is used at its next step.

        Raises:
            ValueError: The state is from another class of optimizer, or only one of the two has a
                schedule; at the next step, the state of a parameter has another shape.
        """
        keys = {"optimizer", "parameters", "options", "schedule"}
        if state_dict and state_dict.keys() != keys:
            raise ValueError(
                f"state_dict: got the keys {sorted(map(str, state_dict))}, expected those of "
                f"get_state: {', '.join(sorted(keys))}"
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
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                f"schedule: made {kind(scheduler)}, expected a scheduler of "
                "torch.optim.lr_scheduler"
            )
        return optimizer, scheduler

    def _join(self, params: list[Tensor]) -> None:
        if not params:
            return
        store = pyro.get_param_store()
        # The order decides how the norm of a gradient is rounded: that of a loaded state stays.
        order = list(self._state_waiting_to_be_consumed.get("parameters", {}))
        names = [store.param_name(p) or "" for p in params]
        named = sorted(
            (order.index(name) if name in order else len(order), name, i)
            for i, name in enumerate(names)
        )
        params = [params[i] for *_, i in named]
        self._names.update(zip(params, (name for _, name, _ in named), strict=True))
        if self.optimizer is None:
            self.optimizer, self.scheduler = self._make(params)
        else:
            # A second group would be stepped separately.
            self.optimizer.param_groups[0]["params"].extend(params)

    def _consume(self, params: Iterable[Tensor]) -> None:
        """Moves the loaded state of the parameters of a step into the torch optimizer."""
        waiting = self._state_waiting_to_be_consumed
        if self.optimizer is None or not waiting:
            return
        group, states = self.optimizer.param_groups[0], waiting["parameters"]
        if waiting["options"]:
            group.update(waiting["options"])
            waiting["options"] = {}
        for parameter in params:
            name = self._names[parameter]
            if name in states:
                state = _fitted(name, states.pop(name), parameter, group)
                self.optimizer.state[parameter] = state
        if self.scheduler is not None and waiting["schedule"] is not None:
            self.scheduler.load_state_dict(waiting["schedule"])
            waiting["schedule"] = None


def _check_options(options: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError, which name it, for an option that torch's classes share."""
    if "lr" in options:
        check_number("lr", options["lr"], 0, use="as learning rate")
    if "weight_decay" in options:
        check_number("weight_decay", options["weight_decay"], 0)
    if "betas" in options:
        betas = options["betas"]
        if not is_sequence(betas) or len(betas) != 2:
            raise TypeError(f"betas: got {betas!r}, expected two numbers from 0 up and below 1")
        for beta in betas:
            check_number("betas", beta, 0, below=1)


def _fitted(
    name: str, state: dict[str, Any], parameter: Tensor, options: dict[str, Any]
) -> dict[str, Any]:
    """A copy of a parameter's state on its device; raises ValueError if the shapes differ."""
    fitted = {}
    on_device = options.get("capturable") or options.get("fused")  # as torch keeps step counts
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
            raise ValueError(
                f"state_dict: {key} of {name!r} has shape {tuple(value.shape)}, expected "
                f"{tuple(parameter.shape)}"
            )
        if isinstance(value, Tensor) and value.dim():
            fitted[key] = torch.empty_like(parameter, dtype=_dtype(value, parameter)).copy_(value)
        elif isinstance(value, Tensor):
            fitted[key] = value.to(parameter.device) if on_device else value.clone()
        else:
            fitted[key] = value
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
    """Any torch optimizer as a Pyro optimizer, one for all parameters.

    Arguments:
        cls: A subclass of ``torch.optim.Optimizer``.
        clip_norm, schedule: See :class:`JointOptim`.
        kwargs: The options of `cls`.

    Raises:
        TypeError, ValueError: As :class:`JointOptim`.

    Example:
        >>> optimizer = optim.from_torch(torch.optim.SGD, lr=1e-2, momentum=0.9)
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optimizer, loss=objectives.trace_elbo())
        >>> isinstance(svi.step(torch.ones(7, 16)), float)
        True
    """
    return JointOptim(cls, kwargs, clip_norm, schedule)


def Adam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    schedule: Schedule | None = None,
) -> JointOptim:
    """torch's fused Adam as a Pyro optimizer, one for all parameters.

    Source: Kingma and Ba (2015), algorithm 1.

    Arguments:
        lr: Learning rate.
        betas: Decay rates of the running means of the gradient and of its square.
        weight_decay: Factor of the L2 penalty.
        clip_norm, schedule: See :class:`JointOptim`.

    Raises:
        TypeError, ValueError: As :class:`JointOptim`.

    Example:
        >>> from torch.optim.lr_scheduler import ExponentialLR
        >>> optimizer = optim.Adam(lr=1e-3, schedule=lambda adam: ExponentialLR(adam, 0.999))
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> len(fit(vae, torch.ones(128, 16), epochs=1, optim=optimizer)["cost"])
        1
    """
    options = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "fused": True}
    return JointOptim(torch.optim.Adam, options, clip_norm, schedule)
