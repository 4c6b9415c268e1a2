"""SIGTERM, by which schedulers and containers end a process."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pyro_vae.training import interrupt

_SECONDS = 9
"""What a step, an evaluation or a callback may still take, before it is broken off."""

TERMINATED = 143
"""The shell's code for an end by SIGTERM."""


class Termination:
    """Lets SIGTERM end a training as Ctrl-C does: with a checkpoint.

    After nine seconds, whatever is still running ends with KeyboardInterrupt.

    Attributes:
        requested: Whether SIGTERM has come.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """A context in which SIGTERM is handled so; only in the main thread."""
        main = threading.current_thread() is threading.main_thread()
        if not main or not hasattr(signal, "SIGALRM"):
            yield
            return
        handlers = {signal.SIGTERM: self._terminate, signal.SIGALRM: self._break_off}
        before = {number: signal.signal(number, own) for number, own in handlers.items()}
        try:
            yield
        finally:
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            signal.alarm(_SECONDS)
            interrupt()

    def _break_off(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt
