"""The processor's time of a row's training, which checkpoints keep."""

import time
from collections.abc import Mapping
from typing import Any

from pyro_vae.pair import Pair
from pyro_vae.training import History

__all__ = ["Clock"]


class Clock:
    """A callback of ``fit`` that counts the processor's seconds, over all threads.

    One clock may follow several trainings. A row that goes on from checkpoints has the seconds
    that they have.

    Attributes:
        seconds: The processor's time up to the last reading.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start()

    def start(self) -> None:
        """Leaves out what has run since the last reading."""
        self._began = time.process_time()

    def read(self) -> float:
        """Returns the seconds up to now."""
        now = time.process_time()
        self.seconds += now - self._began
        self._began = now
        return self.seconds

    def __call__(self, vae: Pair, history: History) -> None:
        self.read()

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"seconds": self.read()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the seconds of a checkpoint."""
        self.seconds = state["seconds"]
        self.start()
