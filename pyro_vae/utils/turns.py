"""Turns of threads: one at a time uses modes, Pyro's handlers and torch's generators."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["offer_turn", "one_at_a_time", "one_training", "others_turn", "turn"]

P = ParamSpec("P")
R = TypeVar("R")


class _Turns:
    """A lock that a thread may take several times, and that threads get in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()
        self._owner: int | None = None
        self._depth = 0
        self.trains: int | None = None

    def take(self, depth: int = 1) -> None:
        """Takes the turn, as soon as the threads that have waited longer have had theirs."""
        own = threading.get_ident()
        if self._owner == own:
            self._depth += depth
            return
        event = threading.Event()
        with self._lock:
            if self._owner is None:
                self._owner, self._depth = own, depth
                return
            self._waiting.append((own, event))
        try:
            event.wait()
        except BaseException:  # Ctrl-C
            with self._lock:
                if self._owner == own:  # It was handed over just now.
                    self._hand_over()
                else:
                    self._waiting.remove((own, event))
            raise
        self._depth = depth

    def give(self) -> None:
        """Gives the turn back, once for each time that it was taken."""
        self._depth -= 1
        if not self._depth:
            with self._lock:
                self._hand_over()

    def offer(self) -> None:
        """Lets the threads that wait have their turn."""
        if self._waiting and self._owner == threading.get_ident():
            depth, self._depth = self._depth, 1
            self.give()
            self.take(depth)

    def leave(self) -> int:
        """Gives the turn back altogether; returns how often it was taken, for :meth:`take`."""
        if self._owner != threading.get_ident():
            return 0
        depth, self._depth = self._depth, 1
        self.give()
        return depth

    def _hand_over(self) -> None:
        if self._waiting:
            self._owner, event = self._waiting.popleft()
            event.set()
        else:
            self._owner = None


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
    turns.take()
    try:
        yield
    finally:
        turns.give()


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """A function that one thread at a time runs, see :func:`turn`.

    Example:
        >>> from pyro_vae.utils.turns import one_at_a_time
        >>> one_at_a_time(len)([1, 2])
        2
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        with turn():
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
        with turn():
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
    turns = _turns
    depth = turns.leave()
    try:
        yield
    finally:
        if depth:
            turns.take(depth)


def offer_turn() -> None:
    """Lets the threads that wait have their turn, in the middle of a training."""
    _turns.offer()
