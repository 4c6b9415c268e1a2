"""The loop over epochs: steps, held-out data, history, callbacks, and the ways to end it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro.optim
import torch

from pyro_vae.optim import JointOptim
from pyro_vae.pair import Pair
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.ending import Ended, Interrupted, Interruption, StopTraining
from pyro_vae.training.epoch_terms import EpochTerms, NonFiniteLoss
from pyro_vae.training.held_out import COLUMN_OF, HeldOut
from pyro_vae.training.history import COLUMNS, History
from pyro_vae.training.trackers import Tracker
from pyro_vae.training.whole_epochs import WholeEpochs
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded

__all__ = ["Loop"]

_log = logging.getLogger(__name__)


@dataclass
class Loop:
    """Trains a pair epoch by epoch.

    Attributes:
        pair: The pair.
        steps: Takes the steps of an epoch.
        terms: Sums the terms of the losses.
        optim: The optimizer.
        held_out: Test and validation data.
        callbacks: Called after each epoch.
        tracker: Is told of the training, or None.
        seed: The seed of the noise.
        device: Where the noise is drawn.
        total: The number of batches in all epochs, or None if it is unknown.
    """

    pair: Pair
    steps: WholeEpochs
    terms: EpochTerms
    optim: pyro.optim.PyroOptim
    held_out: Sequence[HeldOut]
    callbacks: Sequence[Callback]
    tracker: Tracker | None
    seed: int | None
    device: torch.device
    total: int | None

    def run(self, epochs: int, settings: Mapping[str, Any]) -> History:
        """Trains for so many epochs; returns the history of those that were finished.

        Arguments:
            epochs: The number of epochs.
            settings: The settings of the training, for the tracker.

        Raises:
            NonFiniteLoss: A loss or a parameter is not finite.
        """
        missing = {*COLUMN_OF.values()} - {each.column for each in self.held_out}
        history = History({name: [] for name in COLUMNS if name not in missing})
        for callback in self.callbacks:
            if hasattr(callback, "before_training"):
                callback.before_training(self.pair, list(history))
        with _training(self.pair), self._tracked(settings, history):
            history.ended = self._epochs(epochs, history)
            for callback in self.callbacks:
                if hasattr(callback, "after_training"):
                    callback.after_training(self.pair, history)
        return history

    @contextmanager
    def _tracked(self, settings: Mapping[str, Any], history: History) -> Iterator[None]:
        """Tells the tracker of the settings, and at the end the curves; closes it."""
        if self.tracker is None:
            yield
            return
        try:
            self.tracker.config(settings)
            yield
            if history.epoch:
                from matplotlib.figure import Figure  # slow to import

                figure = Figure(layout="constrained")  # unknown to pyplot, which would keep it
                history.plot(figure.subplots())
                self.tracker.figure("history", figure, int(history.epoch[-1]))
        finally:
            self.tracker.close()

    def _epochs(self, epochs: int, history: History) -> Ended:
        with Interruption() as interruption, progress_bar(self.total, "batches") as progress:

            def done(steps: int) -> None:
                progress.update(steps)
                interruption.check()

            for epoch in range(1, epochs + 1):
                progress.set_description(f"epoch {epoch}/{epochs}")
                with interruption.waiting():
                    try:
                        self._epoch(epoch, history, done)
                    except (Interrupted, RuntimeError, OSError, EOFError) as error:
                        if not isinstance(error, Interrupted) and not (
                            interruption.requested and _is_of_a_worker(error)
                        ):
                            raise
                        self._check_parameters(f"interrupted in epoch {epoch}", history)
                        return "interrupted"
                    progress.set_postfix(cost=f"{history.cost[-1]:.2f}")
                    reason = self._call(history)
                if interruption.requested:
                    return "interrupted"
                if reason is not None:
                    _log.info("stopped after epoch %d: %s", epoch, reason or "a callback")
                    return "stopped"
        return "epochs"

    def _epoch(self, epoch: int, history: History, done: Callable[[int], object]) -> None:
        """Takes the steps of an epoch and adds its row, with the costs of held-out data."""
        start = time.perf_counter()
        with seeded(self.seed, epoch, device=self.device):
            self.steps.epoch(epoch, history, done)
        self._check_parameters(f"epoch {epoch}", history)
        seconds = time.perf_counter() - start
        costs = {each.column: each.cost(self.pair, epoch, history) for each in self.held_out}
        if costs and isinstance(self.optim, JointOptim):
            self.optim.end_epoch(next(iter(costs.values())))
        row = {**self.terms.means(), **costs, "seconds": seconds}
        history.append({"epoch": epoch, **row})
        if self.tracker is not None:
            self.tracker.scalars(row, epoch)

    def _check_parameters(self, place: str, history: History) -> None:
        """Raises NonFiniteLoss unless all parameters are finite."""
        for path, parameter in self.pair.named_parameters():
            if not torch.isfinite(parameter).all():
                message = f"{place}: the parameter {path} is not finite after the last batch"
                raise NonFiniteLoss(message, history)

    def _call(self, history: History) -> str | None:
        """Calls all callbacks; returns the reason if one of them stops the training."""
        reason = None
        for callback in self.callbacks:
            try:
                callback(self.pair, history)
            except StopTraining as stop:
                reason = str(stop) if reason is None else reason
        return reason


@contextmanager
def _training(pair: Pair) -> Iterator[None]:
    """Puts a pair into train mode inside the block; afterwards each module has its mode back."""
    modes = [(module, module.training) for module in pair.modules()]
    pair.train()
    pair.zero_grad()  # The first step would add the gradients of an earlier backward.
    try:
        yield
    finally:
        pair.zero_grad()
        for module, training in modes:
            module.training = training


def _is_of_a_worker(error: Exception) -> bool:
    """Whether an error says that a loader's worker has ended, as workers do by Ctrl-C."""
    lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    return lost or "DataLoader worker" in str(error)
