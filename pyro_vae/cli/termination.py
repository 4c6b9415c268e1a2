"""SIGTERM, by which schedulers and containers end a process."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from pyro_vae.training import interrupt

_SECONDS = 9
"""What a step, an evaluation or a callback may still take, before it is broken off."""

TERMINATED = 143
"""The shell's code for an end by SIGTERM."""


class Termination:
    """A context in which SIGTERM ends a training as Ctrl-C does: with a checkpoint.

    After nine seconds, whatever is still running ends with KeyboardInterrupt.

    Attributes:
        requested: Whether SIGTERM has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: list[tuple[int, Any]] = []

    def __enter__(self) -> "Termination":
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM"):
            self._before = [
                (signal.SIGTERM, signal.signal(signal.SIGTERM, self._terminate)),
                (signal.SIGALRM, signal.signal(signal.SIGALRM, self._break_off)),
            ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before:
            signal.alarm(0)
        for number, handler in self._before:
            signal.signal(number, handler)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            signal.alarm(_SECONDS)
            interrupt()

    def _break_off(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt
