"""Writes the checkpoints of a training, and goes on from one."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.objectives import Compiled
from pyro_vae.training.checkpoints import (
    Checkpoints,
    Interval,
    Loaded,
    Settings,
    State,
    random_state,
    set_random_state,
)
from pyro_vae.training.ending import Ended
from pyro_vae.training.epoch_terms import EpochTerms
from pyro_vae.training.history import History
from pyro_vae.training.recovery import Recovery, scaled_rates
from pyro_vae.training.sources import START, Place, Source
from pyro_vae.training.whole_epochs import WholeEpochs
from pyro_vae.utils.checks import check_flag, check_path
from pyro_vae.utils.processes import Processes
from pyro_vae.utils.random import generator_states, set_generator_states
from pyro_vae.utils.warn import warn

__all__ = ["Resumption", "resumption_of"]

_log = logging.getLogger(__name__)


class Resumption:
    """Writes the checkpoints of a training, and goes on from one.

    Arguments:
        checkpoints: The folder.
        loaded: The checkpoint from which the training goes on; None at its start. What is drawn
            before the first step is drawn again.
        device: Where the noise is drawn.

    Attributes:
        first_epoch: The number of the epoch in which the training goes on.
        steps: The number of steps before.
        processes: The processes of the training, the first of which writes; None for this one.
    """

    def __init__(
        self, checkpoints: Checkpoints, loaded: Loaded | None, device: torch.device
    ) -> None:
        self.checkpoints = checkpoints
        self.first_epoch = 1 if loaded is None else loaded.epochs + 1
        self.steps = 0 if loaded is None else loaded.steps
        self.processes: Processes | None = None
        self._loaded = loaded
        self._device = device
        self._outer: Mapping[str, Tensor] = generator_states(device)
        self._initial = random_state(device)
        if loaded is not None:
            self._initial = loaded.state["initial"]
            set_random_state(self._initial, device)
        self._sources: Mapping[str, Source] = {}
        self._since = 0  # how often it has gone back to the last checkpoint
        self._recovery: Recovery | None = None
        self._state_of: State
        self._whole: WholeEpochs

    def __str__(self) -> str:
        begun = f"from epoch {self.first_epoch} on, after {self.steps} steps"
        return f"{self.checkpoints.folder}, {begun}"

    def load_loaders(self, sources: Mapping[str, Source]) -> None:
        """Puts the random generators of the user's loaders back.

        Arguments:
            sources: The data by argument.

        Warns:
            UserWarning: The training data cannot go on in the middle of an epoch.
        """
        self._sources = sources
        if self._loaded is not None:
            for name, source in sources.items():
                source.load_loader_state(self._loaded.state["loaders"].get(name))
        if not sources["train"].has_places and self.checkpoints.every.unit != "epoch":
            warn(
                "checkpoint_every: got an interval within an epoch for training data that are a "
                "stream, which cannot go on in the middle, so checkpoints are written at the ends "
                "of epochs"
            )

    def check(self, settings: Settings, objective: ELBO) -> bool | None:
        """Whether the training was compiled before; None at its start.

        Arguments:
            settings: Those of the training.
            objective: The objective as it was given.

        Raises:
            ValueError: One of them was another before.
        """
        self.checkpoints.settings = settings
        if self._loaded is None:
            return None
        settings.check(self._loaded.settings, self.checkpoints.folder)
        before = bool(self._loaded.state["compiled"])
        if isinstance(objective, Compiled) and not before:
            raise ValueError(
                "objective: got a compiled one, expected one that is not, as before, in "
                f"{self.checkpoints.folder}"
            )
        return before

    def attach(self, state: State, steps: WholeEpochs, recovery: Recovery | None) -> None:
        """Takes what the training is made of.

        Arguments:
            state: The pair, the optimizer and all else that has a state.
            steps: Takes the steps of an epoch.
            recovery: How often the training goes back after a loss that is not finite.
        """
        self._state_of, self._whole, self._recovery = state, steps, recovery

    def begin(self, history: History) -> History:
        """Puts the loaded state back; returns the history of the epochs that are finished.

        Arguments:
            history: The empty history of the training.

        Raises:
            TypeError: A state that a checkpoint is to hold cannot be written.
        """
        if self._loaded is None:
            self.checkpoints.check({**self._state(None), **self._state_of.before_the_first_step()})
            return history
        loaded = self._loaded
        self._take_own_code(loaded.state)
        _log.info("goes on from %s", loaded.path)
        self._state_of.load(loaded.state, str(loaded.path))
        set_random_state(loaded.state["random"], self._device)
        if loaded.history.ended == "interrupted":
            loaded.history.ended = None
        return loaded.history

    def go_back(self, reason: str, history: History) -> History | None:
        """Goes back to the last checkpoint with lower rates; returns its history.

        None if the training has gone back as often as it may, or if there is no checkpoint.

        Arguments:
            reason: Why.
            history: The history so far.
        """
        recovery = self._recovery
        if recovery is None or len(history.recoveries) >= recovery.times:
            return None
        loaded = self._loaded = self.checkpoints.load()
        if loaded is None:
            return None
        self._since += 1
        factor = recovery.factor**self._since
        loaded.state["optim"] = scaled_rates(loaded.state["optim"], factor)
        self._state_of.load(loaded.state, str(loaded.path), compiled=False)
        set_random_state(loaded.state["random"], self._device)
        for name, source in self._sources.items():
            source.load_loader_state(loaded.state["loaders"][name])
        text = f"{reason}; went back to {loaded.path.stem}, with its rates times {factor:g}"
        _log.warning(text)
        loaded.history.recoveries = [*history.recoveries, text]
        return loaded.history

    def enter(self, epoch: int, terms: EpochTerms) -> tuple[Place, tuple[float, ...], float]:
        """Where an epoch starts, the sums of recorded steps before, and its seconds so far."""
        self._outer = generator_states(self._device)
        loaded, self._loaded = self._loaded, None
        if loaded is None or not loaded.batches:
            return START, (), 0.0
        saved = loaded.state["epoch"]
        terms.load_state(saved["terms"])

        def noise() -> None:
            set_generator_states(saved["noise"], self._device)

        place = Place(loaded.batches, loaded.state["loaders"]["train"], noise)
        return place, tuple(saved["sums"]), saved["seconds"]

    def generators(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The states of all random generators, those of loaders too."""
        loaders = {name: source.loader_state() for name, source in self._sources.items()}
        return random_state(self._device), loaders

    def set_generators(self, states: tuple[dict[str, Any], dict[str, Any]]) -> None:
        """Puts states from :meth:`generators` back."""
        set_random_state(states[0], self._device)
        for name, source in self._sources.items():
            source.load_loader_state(states[1][name])

    def is_due(self, steps: int) -> bool:
        """Whether a checkpoint is to be written, after so many steps in this process."""
        return self.checkpoints.is_due(steps)

    def write(self, batches: int, steps: int, seconds: float, history: History) -> None:
        """Writes a checkpoint between two steps of an epoch.

        Arguments:
            batches: The number of batches of the epoch that are taken.
            steps: The number of steps in this process.
            seconds: The time that the epoch has taken so far.
            history: The history of the epochs before.
        """
        epoch = {
            "terms": self._whole.steps.terms.state(),
            "sums": self._whole.sums(),
            "seconds": seconds,
            "noise": generator_states(self._device),
        }
        self._write(batches, steps, history, epoch)

    def is_due_after(self, steps: int, history: History) -> bool:
        """Whether a checkpoint is to be written after an epoch."""
        return self.checkpoints.is_due_after(len(history.epoch), steps, history)

    def end_epoch(self, steps: int, history: History, ended: Ended | None) -> None:
        """Writes a checkpoint after an epoch."""
        history.ended = ended
        self._outer = generator_states(self._device)
        self._write(0, steps, history, None)

    def _write(
        self, batches: int, steps: int, history: History, epoch: Mapping[str, Any] | None
    ) -> None:
        self._since = 0
        epochs, total = len(history.epoch), self.steps + steps
        state = self._state(epoch)
        if self.processes is not None:
            own = state["parts"]["objectives"]
            # Each process has compiled code for the sizes of its shares.
            state["codes"] = self.processes.gathered([[s.get("code") for s in o] for o in own])
            if not self.processes.is_first:
                return
        self.checkpoints.write(epochs, batches, steps, total, state, history)

    def _take_own_code(self, state: Mapping[str, Any]) -> None:
        """Puts what this process had compiled in place of what the first one had."""
        codes = state.get("codes", [])
        if self.processes is None or len(codes) != self.processes.size:
            return
        for objective, own in zip(state["objectives"], codes[self.processes.rank], strict=True):
            for layer, code in zip(objective, own, strict=True):
                if code is not None:
                    layer["code"] = code

    def _state(self, epoch: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            "parts": self._state_of.take(),
            "random": {**random_state(self._device), "torch": self._outer},
            "initial": self._initial,
            "loaders": {name: source.loader_state() for name, source in self._sources.items()},
            "compiled": self._state_of.is_compiled,
            "epoch": epoch,
        }


def resumption_of(
    folder: str | Path | None, every: str, resume: bool, epochs: int, device: torch.device
) -> Resumption | None:
    """What writes checkpoints into a folder, and goes on from the last one if `resume`.

    Arguments:
        folder: The folder; None for no checkpoints.
        every: The interval.
        resume: Whether to go on from the last one.
        epochs: The number of epochs of the training.
        device: Where the noise is drawn.

    Raises:
        TypeError, ValueError: An argument is out of range, or all checkpoints are damaged.
        FileExistsError: There are checkpoints, and `resume` is False.
        NotADirectoryError: There is a file in the folder's place.
    """
    interval = Interval.parse(every)
    check_flag("resume", resume)
    check_path("checkpoint", folder, none=True)
    if folder is None:
        if resume:
            raise ValueError("resume: got True without checkpoint=, expected a folder there")
        return None
    checkpoints = Checkpoints(folder, interval)
    if not resume:
        checkpoints.check_free()
        return Resumption(checkpoints, None, device)
    loaded = checkpoints.load()
    reached = 0 if loaded is None else loaded.epochs + bool(loaded.batches)
    if loaded is not None and reached > epochs:
        raise ValueError(
            f"epochs: got {epochs}, expected at least {reached}: {loaded.path} is that far"
        )
    return Resumption(checkpoints, loaded, device)
