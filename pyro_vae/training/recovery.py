"""Going back to the last checkpoint after a loss that is not finite."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pyro_vae.utils.checks import check_count, check_number, plain

__all__ = ["Recovery", "scaled_rates"]

_RATES = {"lr", "initial_lr", "max_lr", "min_lr", "base_lrs", "max_lrs", "min_lrs", "_last_lr"}
_STEPS = {"step_size", "eta"}  # Rprop, ASGD and AdagradRMSProp have rates of their own


@dataclass(frozen=True)
class Recovery:
    """How often a training goes back after a loss that is not finite, for ``fit(recovery=)``.

    It goes on from the last checkpoint with all learning rates times `factor`, that of the
    schedule too. ``history.recoveries`` tells of each. If it has gone back so often, or if there
    is no checkpoint yet, :class:`NonFiniteLoss` is raised as without it.

    Arguments:
        times: How often.
        factor: Above 0 and below 1.

    Raises:
        TypeError, ValueError: An argument is out of range.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyro_vae.training import Recovery
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=1)
        >>> with TemporaryDirectory() as folder:
        ...     recovery = Recovery(times=2, factor=0.1)
        ...     x = torch.ones(160, 1)
        ...     history = fit(vae, x, epochs=2, checkpoint=folder, recovery=recovery)
        >>> history.recoveries
        []
    """

    times: int = 3
    factor: float = 0.5

    def __post_init__(self) -> None:
        check_count("times", self.times)
        check_number("factor", self.factor, above=0, below=1)
        for name in ("times", "factor"):  # The settings of a training have its repr.
            object.__setattr__(self, name, plain(getattr(self, name)))


def scaled_rates(state: Any, factor: float) -> Any:
    """The state of an optimizer and its schedule, with all learning rates times a factor."""
    if isinstance(state, Mapping):
        return {
            key: _times(value, factor) if _is_rate(key, value) else scaled_rates(value, factor)
            for key, value in state.items()
        }
    if isinstance(state, list | tuple):
        return type(state)(scaled_rates(value, factor) for value in state)
    return state


def _is_rate(key: object, value: Any) -> bool:
    # A StepLR has an int of the same name as Rprop's tensor.
    return key in _RATES or (key in _STEPS and not isinstance(value, int))


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_times(each, factor) for each in value)
    return value * factor if isinstance(value, int | float | torch.Tensor) else value
