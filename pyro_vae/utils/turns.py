"""Turns of threads: one at a time uses modes, Pyro's handlers and torch's generators."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = ["offer_turn", "one_at_a_time", "one_training", "others_turn", "turn"]

P = ParamSpec("P")
R = TypeVar("R")


class _Turns:
    """A lock of the process, and who waits for it.

    The lock is taken by a ``with`` of its own, which Ctrl-C cannot interrupt between taking the
    lock and giving it back.

    Attributes:
        lock: What a thread has during its turn. It may take it several times.
        present: The threads that have their turn, or wait for it.
        trains: The thread that trains, or None.
    """

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        self.present: deque[int] = deque()
        self.trains: int | None = None
        self._passing = threading.Condition(self.lock)

    def offer(self) -> None:
        """Lets the threads that wait have their turn."""
        own = threading.get_ident()
        for _ in [thread for thread in self.present if thread != own]:
            self._passing.wait(1e-4)  # It gives the lock back, and then waits for it.

    @contextmanager
    def announced(self) -> Iterator[None]:
        """A context in which this thread is present."""
        own = threading.get_ident()
        self.present.append(own)
        try:
            yield
        finally:
            self.present.remove(own)


_turns = _Turns()


def _begin_anew() -> None:
    """A forked process has one thread, and no turn is taken there."""
    global _turns
    _turns = _Turns()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextmanager
def turn() -> Iterator[None]:
    """A context that one thread at a time is in.

    A pair's modes, Pyro's effect handlers and parameter store, and torch's random generators
    belong to the process, so two threads would disturb each other.

    Example:
        >>> from pyro_vae.utils.turns import turn
        >>> with turn(), turn():  # by one thread
        ...     print("here")
        here
    """
    turns = _turns
    with turns.announced(), turns.lock:
        yield


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """A function that one thread at a time runs, see :func:`turn`.

    Example:
        >>> from pyro_vae.utils.turns import one_at_a_time
        >>> one_at_a_time(len)([1, 2])
        2
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        turns = _turns
        with turns.announced(), turns.lock:
            return function(*args, **kwargs)

    return alone


def one_training(function: Callable[P, R]) -> Callable[P, R]:
    """A function that trains, which takes turns with the evaluations of other threads.

    It raises RuntimeError if another thread trains.

    Example:
        >>> from pyro_vae.utils.turns import one_training
        >>> one_training(len)([1, 2])
        2
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        turns, own = _turns, threading.get_ident()
        with turns.announced(), turns.lock:
            before = turns.trains
            if before is not None and before != own:
                raise RuntimeError(
                    f"{function.__name__}: another thread of this process trains, expected one "
                    "training at a time: modes, Pyro's handlers and torch's generators belong to "
                    "the process; use a process for each training"
                )
            turns.trains = own
            try:
                return function(*args, **kwargs)
            finally:
                turns.trains = before

    return alone


@contextmanager
def others_turn() -> Iterator[None]:
    """A context in a training in which other threads have their turn."""
    lock = _turns.lock
    taken = lock._release_save()  # as often as it was taken
    try:
        yield
    finally:
        lock._acquire_restore(taken)


def offer_turn() -> None:
    """Lets the threads that wait have their turn, in the middle of a training."""
    _turns.offer()
