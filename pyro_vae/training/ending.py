"""How a training ends before its last epoch: a callback stops it, or a user interrupts it."""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Literal

__all__ = ["Ended", "Interrupted", "Interruption", "StopTraining", "interrupt"]

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


_SAME = 2.0  # seconds between two signals of one Ctrl-C

_active: "list[Interruption]" = []


def interrupt() -> None:
    """Ends the training that runs in this thread after its step, as Ctrl-C does.

    Raises:
        KeyboardInterrupt: There is none.
    """
    for interruption in _active:
        interruption.requested = True
    if not any(interruption.waits for interruption in _active):
        raise KeyboardInterrupt


class Interruption:
    """A context in which processes that are begun, such as a loader's workers, ignore Ctrl-C.

    In :meth:`waiting`, the first Ctrl-C is kept until :meth:`check`; a second one is not. Outside
    the main thread, and where the program handles the signal in another way than Python, nothing
    changes.

    Arguments:
        of_many: Whether this is one of several processes. A terminal and ``torchrun`` send each of
            them the same Ctrl-C, so that a second one soon after the first is not another.

    Attributes:
        requested: Whether Ctrl-C was pressed.
        waits: Whether this is within :meth:`waiting`.
    """

    def __init__(self, of_many: bool = False) -> None:
        self.requested = False
        self._of_many = of_many
        self._time = -math.inf
        self.waits = False
        self._process = os.getpid()
        self._before: Any = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context in which the first Ctrl-C waits for :meth:`check`."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False

    def check(self) -> None:
        """Raises Interrupted if Ctrl-C was pressed."""
        if self.requested:
            raise Interrupted

    def __enter__(self) -> "Interruption":
        before = signal.getsignal(signal.SIGINT)
        ours = isinstance(getattr(before, "__self__", None), Interruption)
        main = threading.current_thread() is threading.main_thread()
        if main and (ours or before is signal.default_int_handler):
            self._before = before
            signal.signal(signal.SIGINT, self._handle)
        if main:
            _active.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self in _active:
            _active.remove(self)
        # A handler that a callback has set in the meantime stays.
        if self._before is not None and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        again, self.requested = self.requested, True
        before, self._time = self._time, time.monotonic()
        if self._of_many and self._time - before < _SAME:
            return
        if again or not self.waits:
            raise KeyboardInterrupt
        if self._before is not signal.default_int_handler:  # A training inside of a callback.
            self._before(number, frame)
