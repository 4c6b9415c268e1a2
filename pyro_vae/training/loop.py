"""The loop over epochs: steps, held-out data, history, callbacks, and the ways to end it."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro.optim
import torch

from pyro_vae.optim import JointOptim
from pyro_vae.pair import Pair
from pyro_vae.training.arguments import check_gradients, check_trained
from pyro_vae.training.between import Between
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.ending import Ended, Interrupted, Interruption, StopTraining
from pyro_vae.training.epoch_terms import EpochTerms, NonFiniteLoss
from pyro_vae.training.held_out import COLUMN_OF, HeldOut
from pyro_vae.training.history import COLUMNS, History
from pyro_vae.training.resumption import Resumption
from pyro_vae.training.sources import START, Place
from pyro_vae.training.together import check_alike
from pyro_vae.training.trackers import Tracker
from pyro_vae.training.whole_epochs import WholeEpochs
from pyro_vae.utils.autocast import fresh_casts
from pyro_vae.utils.processes import Processes, together
from pyro_vae.utils.progress import Progress, progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.utils.turns import offer_turn, others_turn
from pyro_vae.utils.warn import warn

__all__ = ["Loop"]

_log = logging.getLogger(__name__)

_LARGE = 1000  # nats a number: some 45 standard deviations


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
        resumption: Writes checkpoints, and goes on from one; or None.
        judged: The pair whose held-out costs are computed.
        processes: The processes that train it together; None if it is this one alone.
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
    resumption: Resumption | None
    judged: Pair
    processes: Processes | None = None
    history: History = field(init=False)
    _interruption: Interruption = field(init=False)
    _between: Between = field(init=False)
    _epoch_start: float = field(init=False)
    _warned: bool = field(init=False, default=False)

    def run(self, epochs: int, settings: Mapping[str, Any]) -> History:
        """Trains for so many epochs; returns the history of those that were finished.

        Arguments:
            epochs: The number of epochs.
            settings: The settings of the training, for the tracker.

        Raises:
            NonFiniteLoss: A loss or a parameter is not finite.
        """
        missing = {*COLUMN_OF.values()} - {each.column for each in self.held_out}
        columns = [name for name in COLUMNS if name not in missing]
        after = columns.index("kl") + 1
        columns[after:after] = self.terms.columns
        self.history = History({name: [] for name in columns})
        with together(self.processes, "before_training"):
            for callback in self.callbacks:
                if hasattr(callback, "before_training"):
                    callback.before_training(self.pair, list(self.history))
        with _training(self.pair), self._tracked(settings):
            if self.resumption is not None:
                self.history = self.resumption.begin(self.history)
            self.history.ended = self._epochs(epochs)
            with together(self.processes, "after_training"):
                for callback in self.callbacks:
                    if hasattr(callback, "after_training"):
                        callback.after_training(self.pair, self.history)
        return self.history

    @contextmanager
    def _tracked(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Tells the tracker of the settings, and at the end the curves; closes it."""
        if self.tracker is None:
            yield
            return
        if not self._writes:
            try:
                yield
            finally:
                self.tracker.close()
            return
        try:
            self.tracker.config(settings)
            yield
            if self.history.epoch:
                from matplotlib.figure import Figure  # slow to import

                figure = Figure(layout="constrained")  # unknown to pyplot, which would keep it
                self.history.plot(figure.subplots())
                self.tracker.figure("history", figure, int(self.history.epoch[-1]))
        finally:
            self.tracker.close()

    def _epochs(self, epochs: int) -> Ended:
        if self.history.ended == "stopped":
            return "stopped"
        together = self.processes is not None
        before = 0 if self.resumption is None else self.resumption.steps
        bar = progress_bar(
            self.total, "batches", shown=self._writes, initial=before, has_rows=True
        )
        with Interruption(together) as self._interruption, bar as progress:

            def passed(steps: int) -> None:
                progress.update(steps)
                self._check_interruption()
                offer_turn()

            self._between = Between(passed, lambda: self._interruption.requested)
            if self.resumption is not None:
                self._between.is_due, self._between.write = self.resumption.is_due, self._write
            while (epoch := len(self.history.epoch) + 1) <= epochs:
                progress.set_description(f"epoch {epoch}/{epochs}")
                with self._interruption.waiting():
                    try:
                        self._epoch(epoch)
                    except NonFiniteLoss as error:
                        self._go_back(error)
                        continue
                    except (Interrupted, RuntimeError, OSError, EOFError) as error:
                        expected = self._interruption.requested and not together
                        if not isinstance(error, Interrupted) and not (
                            expected and _is_of_a_worker(error)
                        ):
                            raise
                        self._check_parameters(f"interrupted in epoch {epoch}")
                        return "interrupted"
                    self._show(progress, epochs)
                    reason = self._call()
                    try:
                        ended = self._end(epoch, reason, last=epoch == epochs)
                    except NonFiniteLoss as error:
                        self._go_back(error)
                        continue
                if ended is not None:
                    return ended
        return "epochs"

    def _show(self, progress: Progress, epochs: int) -> None:
        """Shows an epoch that has ended; steps are left for those after it."""
        history = self.history
        done = len(history.epoch)
        each = progress.n / done if self.total is None else self.total / epochs
        # It went back to a checkpoint, or the data are a stream: the total is another, or unknown.
        progress.total = progress.n + round(each * (epochs - done))
        names = ("cost", "validation_cost", "test_cost", "seconds")
        progress.row(**{name: history[name][-1] for name in names if name in history})

    def _epoch(self, epoch: int) -> None:
        """Takes the steps of an epoch and adds its row, with the costs of held-out data."""
        check_gradients(f"epoch {epoch}")  # A callback may have turned them off,
        check_trained(self.pair)  # or frozen all parameters.
        place, seconds = START, 0.0
        before: Sequence[float] = ()
        self.terms.reset()
        if self.resumption is not None:
            place, before, seconds = self.resumption.enter(epoch, self.terms)
        self._between.batches = place.batches
        self._epoch_start = time.perf_counter() - seconds
        self._steps(epoch, place, before)
        self._check_parameters(f"epoch {epoch}, after the last batch")
        if self.processes is not None:
            check_alike(self.processes, self.pair, f"epoch {epoch}")
        seconds = time.perf_counter() - self._epoch_start
        drawn = None if self.resumption is None else self.resumption.generators()
        try:
            costs = {
                each.column: each.cost(self.judged, epoch, self.history, self._check_interruption)
                for each in self.held_out
            }
        except Interrupted:  # All steps of the epoch are taken; the evaluation begins anew.
            if self.resumption is not None and drawn is not None:
                self.resumption.set_generators(drawn)
            self._write()
            raise
        if costs and isinstance(self.optim, JointOptim):
            self.optim.end_epoch(next(iter(costs.values())))
        row = {**self.terms.means(), **costs, "seconds": seconds}
        self._warn_of_size(epoch, row["cost"])
        self.history.append({"epoch": epoch, **row})
        with together(self.processes, "tracker"):
            if self.tracker is not None and self._writes:
                self.tracker.scalars(row, epoch)

    def _warn_of_size(self, epoch: int, cost: float) -> None:
        """Warns once of a cost that no model with a sense of its data has."""
        numbers = self.steps.steps.data.numbers
        if abs(cost) > _LARGE * numbers and not self._warned and self._writes:
            self._warned = True
            warn(
                f"fit: epoch {epoch} has a cost of {cost:.3g} nats an example, which is over "
                f"{_LARGE:,} for each number in x: the learning rate may be too high, or x on "
                "another scale than the likelihood, such as levels 0 to 255 in place of pixels"
            )

    def _steps(self, epoch: int, place: Place, before: Sequence[float]) -> None:
        """Takes the steps of an epoch; if it is interrupted, writes a checkpoint."""
        with seeded(self.seed, epoch, device=self.device):
            try:
                self.steps.epoch(epoch, self.history, self._between, place, before)
            except Interrupted:
                self._write()
                raise

    def _write(self) -> None:
        """Writes a checkpoint between two steps of an epoch."""
        if self.resumption is not None and self.steps.steps.data.source.has_places:
            epoch = len(self.history.epoch) + 1
            self._check_parameters(f"epoch {epoch}, batch {self._between.batches}")
            seconds = time.perf_counter() - self._epoch_start
            between = self._between
            with together(self.processes, "checkpoint"):
                self.resumption.write(between.batches, between.steps, seconds, self.history)

    def _go_back(self, error: NonFiniteLoss) -> None:
        """Goes back to the last checkpoint, or raises the error if there is no way back."""
        before = None
        if self.resumption is not None:
            before = self.resumption.go_back(str(error), self.history)
        if before is None:
            raise error
        self.pair.zero_grad()
        self.history = before

    def _check_parameters(self, place: str) -> None:
        """Raises NonFiniteLoss unless all parameters are finite."""
        named = self.pair.named_parameters()
        found = next((path for path, p in named if not torch.isfinite(p).all()), None)
        if self.processes is not None:  # They all go back, or none.
            others = self.processes.gathered(found)
            found = next((path for path in others if path is not None), None)
        if found is not None:
            raise NonFiniteLoss(f"{place}: the parameter {found} is not finite", self.history)

    @property
    def _writes(self) -> bool:
        return self.processes is None or self.processes.is_first

    def _check_interruption(self) -> None:
        """Raises Interrupted if Ctrl-C was pressed; several processes agree at each step."""
        if self.processes is None:
            self._interruption.check()

    def _call(self) -> str | None:
        """Calls all callbacks; returns the reason if one of them stops the training."""
        reason = None
        with together(self.processes, "callbacks"), others_turn():
            for callback in self.callbacks:
                try:
                    callback(self.pair, self.history)
                except StopTraining as stop:
                    reason = str(stop) if reason is None else reason
        if self.processes is not None:  # The first reason is that of all.
            reasons = self.processes.gathered(reason)
            reason = next((each for each in reasons if each is not None), None)
        return reason

    def _end(self, epoch: int, reason: str | None, last: bool) -> Ended | None:
        """Writes a checkpoint after an epoch; returns how the training ends here."""
        interrupted, steps = self._interruption.requested, self._between.steps
        due = self.resumption is not None and self.resumption.is_due_after(steps, self.history)
        if self.processes is not None:
            found = self.processes.gathered((interrupted, due))
            interrupted, due = any(each for each, _ in found), found[0][1]
        if reason is not None:
            _log.info("stopped after epoch %d: %s", epoch, reason or "a callback")
        ended: Ended | None = (
            "stopped" if reason is not None else "interrupted" if interrupted else None
        )
        if self.callbacks or self.resumption is not None:
            self._check_parameters(f"epoch {epoch}, after the callbacks")
        if self.resumption is not None and (due or last or ended is not None):
            with together(self.processes, "checkpoint"):
                self.resumption.end_epoch(steps, self.history, ended)
        return ended


@contextmanager
def _training(pair: Pair) -> Iterator[None]:
    """Puts a pair into train mode inside the block; afterwards each module has its mode back.

    Casts of ``torch.autocast`` are fresh, so that steps use the parameters of the last one.
    """
    modes = [(module, module.training) for module in pair.modules()]
    pair.train()
    pair.zero_grad()  # The first step would add the gradients of an earlier backward.
    try:
        with fresh_casts():
            yield
    finally:
        pair.zero_grad()
        for module, training in modes:
            module.training = training


def _is_of_a_worker(error: Exception) -> bool:
    """Whether an error says that a loader's worker has ended, as workers do by Ctrl-C."""
    lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    return lost or "DataLoader worker" in str(error)
