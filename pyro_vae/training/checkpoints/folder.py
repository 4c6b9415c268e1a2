"""The folder of a training's checkpoints: the last two, and the best."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_vae.pair import Pair, check_pair
from pyro_vae.training.checkpoints.interval import Interval
from pyro_vae.training.checkpoints.settings import Settings
from pyro_vae.training.checkpoints.state import load_pair
from pyro_vae.training.history import History
from pyro_vae.utils.checks import check_flag, check_path
from pyro_vae.utils.packed import Tensors, pack, unpack
from pyro_vae.utils.sealed import DamagedRun, sealed_state, unsealed_state, write_files
from pyro_vae.utils.warn import warn
from pyro_vae.version import __version__

__all__ = ["CheckpointError", "Checkpoints", "Loaded", "load_checkpoint"]

_FORMAT = 1
_NAME = re.compile(r"epoch-([0-9]+)(?:-batch-([0-9]+))?\.safetensors")
_COSTS = "validation_cost", "test_cost"


class CheckpointError(OSError):
    """A checkpoint cannot be written. The message names the file, and the last one before."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was read.

    Attributes:
        path: The file.
        epochs: The number of epochs that were finished.
        batches: The number of batches of the next epoch.
        steps: The number of steps so far.
        state: The state of the training.
        history: The history.
        settings: The settings of the training.
        best: The name of the best checkpoint and its cost, or None.
    """

    path: Path
    epochs: int
    batches: int
    steps: int
    state: dict[str, Any]
    history: History
    settings: Mapping[str, Any]
    best: tuple[str, float] | None


class Checkpoints:
    """Writes checkpoints of a training into a folder, and reads them.

    A file is ``epoch-E.safetensors`` after E epochs, or ``epoch-E-batch-B.safetensors`` after B
    further batches. It is written aside, flushed to the disk and renamed. The last two are kept,
    and the best: that of the epoch with the lowest validation cost, else test cost.

    Arguments:
        folder: The folder, which is made.
        every: How often a checkpoint is written.

    Raises:
        NotADirectoryError: There is a file in the folder's place.
    """

    def __init__(self, folder: str | Path, every: Interval) -> None:
        self.folder = Path(folder).absolute()  # A callback may change the working folder.
        self.every = every
        self.settings: Settings | None = None
        self._last: list[str] = []
        self._best: tuple[str, float] | None = None
        self._steps, self._time = 0, time.monotonic()
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f"checkpoint: got {self.folder}, which is a file, expected a folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def check_free(self) -> None:
        """Raises FileExistsError if there are checkpoints."""
        if _names(self.folder):
            raise FileExistsError(
                f"checkpoint: got {self.folder}, which holds checkpoints of another training, "
                "expected an empty folder, or resume=True to go on with it"
            )

    # Reading.

    def load(self) -> Loaded | None:
        """Reads the last checkpoint; None if there is none.

        Raises:
            DamagedRun: All are damaged.

        Warns:
            UserWarning: The last is damaged, so the one before is read.
        """
        loaded = _last_good(self.folder)
        if loaded is not None:
            self._last = [loaded.path.name]
            best = loaded.best
            if best is not None and (self.folder / best[0]).is_file():
                self._best = best
        return loaded

    # Writing.

    def is_due(self, steps: int) -> bool:
        """Whether a checkpoint is to be written between two steps.

        Arguments:
            steps: The number of steps in this process.
        """
        if self.every.unit == "step":
            return steps - self._steps >= self.every.count
        return self.every.unit == "min" and self._minutes() >= self.every.count

    def is_due_after(self, epochs: int, steps: int, history: History) -> bool:
        """Whether a checkpoint is to be written after so many epochs."""
        if self.every.unit == "epoch" and epochs % self.every.count == 0:
            return True
        return self.is_due(steps) or self._is_best(history)

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises TypeError if a state, or the settings, cannot be written."""
        assert self.settings is not None
        json.dumps(dict(self.settings.values))
        _packed(state, Tensors())

    def write(
        self,
        epochs: int,
        batches: int,
        steps: int,
        total: int,
        state: Mapping[str, Any],
        history: History,
    ) -> None:
        """Writes a checkpoint, and removes those that are no longer kept.

        Arguments:
            epochs: The number of epochs that are finished.
            batches: The number of batches of the next epoch.
            steps: The number of steps in this process.
            total: The number of steps in all.
            state: The state of the training.
            history: The history.

        Raises:
            CheckpointError: It cannot be written. Those before are as they were.
        """
        assert self.settings is not None
        self._steps, self._time = steps, time.monotonic()
        name = f"epoch-{epochs}{f'-batch-{batches}' if batches else ''}.safetensors"
        if not batches and self._is_best(history):
            self._best = name, history[_judging(history)][-1]
        tensors = Tensors()
        config = {
            "format": _FORMAT,
            "pyro_vae": __version__,
            "torch": torch.__version__,
            "epochs": epochs,
            "batches": batches,
            "steps": total,
            "settings": dict(self.settings.values),
            "history": [dict(history), history.ended, history.recoveries],
            "best": self._best,
            "state": _packed(state, tensors),
        }
        self._put(name, sealed_state(config, tensors))
        self._last = [*[other for other in self._last if other != name], name][-2:]
        kept = {*self._last, self._best[0] if self._best else name}
        for path in self.folder.iterdir():  # Files of others stay.
            own = _NAME.fullmatch(path.name.removesuffix(".new"))
            if own and path.name not in kept and path.is_file():
                path.unlink(missing_ok=True)

    def _put(self, name: str, content: bytes) -> None:
        try:
            if not self.folder.is_dir():
                raise FileNotFoundError(2, "the folder is gone")
            write_files(self.folder, {name: content})
        except OSError as error:
            intact = f"; {self.folder / self._last[-1]} is intact" if self._last else ""
            message = f"checkpoint: cannot write {self.folder / name} ({error.strerror}){intact}"
            raise CheckpointError(error.errno, message) from error

    def _minutes(self) -> float:
        return (time.monotonic() - self._time) / 60

    def _is_best(self, history: History) -> bool:
        """Whether the last epoch has the lowest cost so far."""
        name = _judging(history)
        if not name or not history[name]:
            return False
        return self._best is None or history[name][-1] < self._best[1]


def load_checkpoint(
    folder: str | Path, into: Pair, *, best: bool = False, averaged: bool = False
) -> History:
    """Loads the parameters and buffers of a training's checkpoint into a pair.

    To go on with the training, call :func:`fit` with ``resume=True`` instead.

    Arguments:
        folder: The folder that was given to ``fit(checkpoint=)``.
        into: A pair of the same structure, which receives them.
        best: Loads the checkpoint with the lowest validation cost, or else test cost, and not the
            last one.
        averaged: Loads the average of ``fit(average=)``.

    Returns:
        The history up to the checkpoint.

    Raises:
        TypeError: An argument has the wrong type.
        FileNotFoundError: There is no such checkpoint.
        ValueError: It has no average.
        DamagedRun: A file is damaged. It is a ValueError that names the file.
        ValueError: The parameters are those of another model. `into` is unchanged then.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyro_vae.training import load_checkpoint
        >>> vae, x = presets.build("pyro-mlp", z_dim=2, shape=1), torch.ones(128, 1)
        >>> with TemporaryDirectory() as folder:
        ...     history = fit(vae, x, test=x, epochs=2, checkpoint=folder)
        ...     found = load_checkpoint(folder, presets.build("pyro-mlp", z_dim=2, shape=1))
        >>> found.epoch
        [1, 2]
    """
    check_pair(into, "into")
    check_path("folder", folder)
    check_flag("best", best)
    check_flag("averaged", averaged)
    loaded = _last_good(Path(folder))
    if loaded is None:
        raise FileNotFoundError(f"{folder}: holds no checkpoint, expected those of fit")
    if best:
        if loaded.best is None:
            raise FileNotFoundError(
                f"{folder}: holds no best checkpoint, expected a training with validation= or "
                "test="
            )
        loaded = _read(Path(folder) / loaded.best[0])
    if averaged and loaded.state["average"] is None:
        raise ValueError(f"averaged: got True, and {loaded.path} holds no average, expected False")
    state = loaded.state["pair"]
    if averaged:
        state = {**state, "state": loaded.state["average"]["pair"]}
    load_pair(into, state, str(loaded.path))
    return loaded.history


def _names(folder: Path) -> list[str]:
    """The names of the checkpoints in a folder, from the last one on."""
    found = [_NAME.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    names = [(int(m[1]), int(m[2] or 0), m[0]) for m in found if m]
    return [name for *_, name in sorted(names, reverse=True)]


def _last_good(folder: Path) -> Loaded | None:
    """The last checkpoint that can be read; None if there is none."""
    first: DamagedRun | None = None
    for name in _names(folder):
        try:
            loaded = _read(folder / name)
        except DamagedRun as error:
            first = first or error
            continue
        if first is not None:
            warn(f"checkpoint: {first}; so {loaded.path} is read instead")
        return loaded
    if first is not None:
        raise first
    return None


def _read(path: Path) -> Loaded:
    config, tensors = unsealed_state(path)
    found = _NAME.fullmatch(path.name)
    position = (int(found[1]), int(found[2] or 0)) if found else None
    if config.get("format") != _FORMAT or position != (config["epochs"], config["batches"]):
        raise DamagedRun(
            f"{path}: not a checkpoint of format {_FORMAT}, or renamed, expected one under the "
            "name that it was written with"
        )
    columns, ended, recoveries = config["history"]
    return Loaded(
        path,
        config["epochs"],
        config["batches"],
        config["steps"],
        {name: unpack(value, tensors) for name, value in config["state"].items()},
        History(columns, ended, recoveries),
        config["settings"],
        None if config["best"] is None else (config["best"][0], config["best"][1]),
    )


def _packed(state: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The parts of a state as values of JSON, and their tensors, by names that messages show."""
    parts = {**state, **state["parts"]}
    return {name: pack(parts[name], name, tensors) for name in parts if name != "parts"}


def _judging(history: History) -> str:
    """The column by which an epoch is the best; "" if there is none."""
    return next((name for name in _COSTS if name in history), "")
