"""Early stopping: a training ends when a column of its history no longer falls."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.pair import Pair
from pyro_vae.training.ending import StopTraining
from pyro_vae.training.history import History
from pyro_vae.utils.checks import check_count, check_flag, check_number, check_text, plain

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """A callback for :func:`fit` that ends a training when a cost no longer falls.

    An epoch is better than all before if its cost is lower than theirs by more than `min_delta`.
    The training stops after `patience` epochs of which none was better. However it ends, but for
    an error, the pair then has the parameters and buffers of the best epoch.

    Source: Prechelt (1998), Early Stopping: But When?, the criterion UP.

    Arguments:
        patience: The number of epochs.
        min_delta: What the cost has to fall by, in the column's unit: nats per example.
        restore_best: Whether the pair gets the parameters of the best epoch at the end.
        column: The column of the history.

    Attributes:
        best: The cost of the best epoch, or infinity before the first epoch.
        best_epoch: The best epoch, or 0.

    Raises:
        TypeError, ValueError: An argument is out of range. By :func:`fit`, before the first step:
            the history has no such column.

    Example:
        >>> from pyro_vae.training import EarlyStopping
        >>> vae, x = presets.build("pyro-mlp", z_dim=2, shape=1), torch.ones(160, 1)
        >>> stop = EarlyStopping(patience=2, min_delta=100.0)
        >>> history = fit(vae, x, validation=0.2, epochs=9, callbacks=[stop])
        >>> history.ended, len(history.epoch), stop.best_epoch
        ('stopped', 3, 1)
    """

    def __init__(
        self,
        patience: int,
        min_delta: float = 0.0,
        restore_best: bool = True,
        column: str = "validation_cost",
    ) -> None:
        check_count("patience", patience)
        check_number("min_delta", min_delta, 0)
        check_flag("restore_best", restore_best)
        check_text("column", column)
        self.patience = plain(patience)
        self.min_delta = float(plain(min_delta))
        self.restore_best = plain(restore_best)
        self.column = column
        self._reset()

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed training has to share."""
        names = "patience", "min_delta", "restore_best", "column"
        return {name: getattr(self, name) for name in names}

    def _reset(self) -> None:
        self.best, self.best_epoch = math.inf, 0
        self._reset_state()

    def _reset_state(self) -> None:
        self._state: dict[str, Any] | None = None
        self._unsaved: dict[str, Tensor] = {}

    def before_training(self, vae: Pair, columns: Sequence[str]) -> None:
        """Forgets an earlier training; raises ValueError if the history will have no column."""
        if self.column not in columns or self.column in ("epoch", "seconds"):
            costs = [name for name in columns if name not in ("epoch", "seconds")]
            raise ValueError(
                f"column: got {self.column!r}, expected one of {', '.join(costs)}; "
                "fit(validation=) adds validation_cost, and fit(test=) test_cost"
            )
        self._reset()

    def __call__(self, vae: Pair, history: History) -> None:
        """Compares an epoch with those before; raises StopTraining if none of the last was better.

        Raises:
            StopTraining: The training is to end.
        """
        cost, epoch = history[self.column][-1], int(history.epoch[-1])
        if cost < self.best - self.min_delta or not self.best_epoch:
            self.best, self.best_epoch = cost, epoch
            if self.restore_best:
                self._state = copy.deepcopy(vae.state_dict())
                self._unsaved = {name: b.detach().clone() for name, b in vae.named_buffers()}
        elif epoch - self.best_epoch >= self.patience:
            raise StopTraining(
                f"{self.column} has not fallen by more than {self.min_delta:g} in "
                f"{self.patience} epochs"
            )

    def state_dict(self) -> dict[str, Any]:
        """The best epoch so far, with its parameters, for a checkpoint."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "state": None if self._state is None else dict(self._state),
            "unsaved": self._unsaved,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads a state from :meth:`state_dict`."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._state, self._unsaved = state["state"], state["unsaved"]

    @torch.no_grad()
    def after_training(self, vae: Pair, history: History) -> None:
        """Gives the pair the parameters and buffers of the best epoch."""
        if self._state is not None:
            vae.load_state_dict(self._state)
            for name, buffer in vae.named_buffers():  # A state lacks those that are not saved.
                if name in self._unsaved:
                    buffer.copy_(self._unsaved[name])
            self._reset_state()
