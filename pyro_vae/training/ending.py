"""How a training ends before its last epoch: a callback stops it, or a user interrupts it."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Literal

__all__ = ["Ended", "Interrupted", "Interruption", "StopTraining"]

Ended = Literal["epochs", "stopped", "interrupted"]
"""How a training ended: after all epochs, by a callback, or by Ctrl-C."""


class StopTraining(Exception):
    """A callback raises it to end the training after the epoch; :func:`fit` returns.

    Example:
        >>> from pyro_vae.training import StopTraining
        >>> def at_two_nats(vae, history):
        ...     if history.cost[-1] < 2.0:
        ...         raise StopTraining
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=1)
        >>> history = fit(vae, torch.ones(128, 1), epochs=9, callbacks=[at_two_nats])
        >>> len(history.epoch), history.ended
        (1, 'stopped')
    """


class Interrupted(Exception):
    """A training was interrupted, between two steps."""


class Interruption:
    """A context in which the first Ctrl-C waits for the end of a step; a second one does not.

    Outside the main thread, and where the program handles the signal in another way than Python,
    nothing changes.

    Attributes:
        requested: Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._installed = False

    def check(self) -> None:
        """Raises Interrupted if Ctrl-C was pressed."""
        if self.requested:
            raise Interrupted

    def __enter__(self) -> "Interruption":
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
