"""The state of a training: all that decides its further numbers."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.optim
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.compat import stored_parameters, waiting_state
from pyro_vae.objectives import Compiled, layers
from pyro_vae.optim import Held, JointOptim
from pyro_vae.pair import Pair
from pyro_vae.training.averaging import Averaging
from pyro_vae.utils.random import generator_states, set_generator_states

__all__ = ["State", "load_pair", "random_state", "set_random_state"]


@dataclass
class State:
    """What a training is made of, whose state is taken and put back.

    Attributes:
        pair: The pair.
        optim: The optimizer.
        objectives: The objective, and that of held-out data.
        programs: Model and guide.
        callbacks: The callbacks; those with ``state_dict`` have a state.
        average: The average of the parameters, or None.
    """

    pair: Pair
    optim: pyro.optim.PyroOptim
    objectives: Sequence[ELBO]
    programs: tuple[Callable[..., object], Callable[..., object]]
    callbacks: Sequence[Any]
    average: Averaging | None

    @property
    def is_compiled(self) -> bool:
        """Whether the objective is compiled."""
        return isinstance(self.objectives[0], Compiled)

    def take(self) -> dict[str, Any]:
        """The state, whose tensors are still those of the training.

        Raises:
            TypeError, ValueError: The state of the optimizer or a callback cannot be taken.
        """
        return {
            "pair": _pair_state(self.pair),
            "optim": _optim_state(self.optim),
            "objectives": [_objective_state(each, self.programs) for each in self.objectives],
            "average": None if self.average is None else self.average.state_dict(),
            "callbacks": [c.state_dict() for c in self.callbacks if _is_stateful(c)],
        }

    def before_the_first_step(self) -> dict[str, Any]:
        """What the state of a schedule will be made of, for a check."""
        optim = self.optim
        return {"schedule": optim.schedule_state() if isinstance(optim, JointOptim) else None}

    def load(self, state: Mapping[str, Any], path: str, compiled: bool = True) -> None:
        """Puts a state back.

        Arguments:
            state: What :meth:`take` returned.
            path: Where it was read, for error messages.
            compiled: Also prepares compiled code, in a new process.

        Raises:
            ValueError: The state is that of another pair.
        """
        load_pair(self.pair, state["pair"], path)
        _load_modes(self.pair, state["pair"])
        _load_optim(self.optim, state["optim"], self.pair)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for objective, saved in zip(self.objectives, state["objectives"], strict=True):
            _load_objective(objective, saved, compiled)
        stateful = [callback for callback in self.callbacks if _is_stateful(callback)]
        for callback, saved in zip(stateful, state["callbacks"], strict=True):
            callback.load_state_dict(saved)


def _is_stateful(callback: Any) -> bool:
    return hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict")


# The pair.


def _pair_state(pair: Pair) -> dict[str, Any]:
    state = pair.state_dict()
    return {
        "state": dict(state),
        "unsaved": {name: b for name, b in pair.named_buffers() if name not in state},
        "modes": {name: module.training for name, module in pair.named_modules()},
        "trained": {name: p.requires_grad for name, p in pair.named_parameters()},
    }


@torch.no_grad()
def load_pair(pair: Pair, state: Mapping[str, Any], path: str) -> None:
    """Puts parameters and buffers back.

    Arguments:
        pair: The pair.
        state: Its state.
        path: Where it was read, for the error message.

    Raises:
        ValueError: They are those of another pair.
    """
    own, saved = pair.state_dict(), state["state"]
    for name in (*saved, *own):
        here, there = (_described(tensors.get(name)) for tensors in (own, saved))
        if here != there and not (name.startswith("params.") and name not in own):
            raise ValueError(f"vae: got {name} as {here}, expected {there}, as in {path}")
    with _may_make_more(pair):
        pair.load_state_dict(saved)
    for name, buffer in pair.named_buffers():
        if name in state["unsaved"]:
            buffer.copy_(state["unsaved"][name])


@contextmanager
def _may_make_more(pair: Pair) -> Iterator[None]:
    """Lets a pair take parameters that its programs have not made yet."""
    params = getattr(pair, "params", None)  # A VAE has none.
    if params is None:
        yield
        return
    whole, params.is_whole = params.is_whole, False
    try:
        yield
    finally:
        params.is_whole = whole


def _load_modes(pair: Pair, state: Mapping[str, Any]) -> None:
    for name, module in pair.named_modules():
        module.training = state["modes"].get(name, module.training)
    for name, parameter in pair.named_parameters():
        parameter.requires_grad_(state["trained"].get(name, parameter.requires_grad))


def _described(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"


# The optimizer.


def _optim_state(optim: pyro.optim.PyroOptim) -> Any:
    if isinstance(optim, Held | JointOptim):
        return optim.get_state()
    # A loaded state waits for the next step of its parameter.
    return {**waiting_state(optim), **optim.get_state()}


def _load_optim(optim: pyro.optim.PyroOptim, state: Any, pair: Pair) -> None:
    if not isinstance(optim, Held | JointOptim):
        # Pyro's own optimizers take a state for parameters that they have not seen.
        optim.optim_objs.clear()
        optim.grad_clip.clear()
        waiting_state(optim).clear()
    optim.set_state(state)
    if isinstance(optim, JointOptim):  # An epoch may end, or be recorded, before its next step.
        pair.bind_all()
        own = {id(p) for p in pair.parameters()}
        known = stored_parameters()
        optim.join(known[n] for n in state.get("parameters", ()) if id(known.get(n)) in own)


# The objective.


def _objective_state(
    objective: ELBO, programs: tuple[Callable[..., object], Callable[..., object]]
) -> list[dict[str, Any]]:
    states = []
    for layer in layers(objective):
        state: dict[str, Any] = {"plates": layer.max_plate_nesting}
        if hasattr(layer, "state_dict"):
            state["own"] = layer.state_dict()
        if isinstance(layer, Compiled):
            state["code"] = layer.code_state(*programs)
        states.append(state)
    return states


def _load_objective(objective: ELBO, states: Sequence[Mapping[str, Any]], compiled: bool) -> None:
    for layer, state in zip(layers(objective), states, strict=True):
        layer.max_plate_nesting = state["plates"]
        if "own" in state:
            layer.load_state_dict(state["own"])
        if compiled and isinstance(layer, Compiled):
            layer.load_code_state(state["code"])


# Random numbers.


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the global generators of torch, NumPy and Python."""
    return {
        "torch": generator_states(device),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts the global generators back to a state from :func:`random_state`."""
    set_generator_states(state["torch"], device)
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
