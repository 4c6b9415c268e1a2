"""Progress of long loops: a bar on a terminal, a line in a notebook, lines in a log file."""

import io
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

__all__ = ["Progress", "clock", "progress_bar", "without_lines"]

_MINUTE = 60.0  # seconds between the lines of an evaluation
_SOON = 0.5  # seconds after which a notebook shows a loop
_LINE = "{desc}{n_fmt}/{total_fmt}{unit}{postfix}, {rate_fmt}, {elapsed} passed, {remaining} left"

_has_own_lines: ContextVar[bool] = ContextVar("has_own_lines", default=False)


class Progress(tqdm):
    """A bar with what is done, the time passed and left, the speed, and the last costs."""

    def row(self, seconds: float, **costs: float) -> None:
        """Shows the costs after an epoch, which took so many seconds."""
        self._put(costs)

    def _put(self, numbers: Mapping[str, float]) -> None:
        self.set_postfix({name: f"{number:.2f}" for name, number in numbers.items()})


class _Lines(Progress):
    """Lines in a file, in place of a bar that is drawn again and again."""

    def row(self, seconds: float, **costs: float) -> None:
        """Writes a line."""
        self._put(costs | {"seconds": seconds})
        self._write()

    def update(self, n: float | None = 1) -> bool | None:
        """Counts steps; writes a line if the last one is long ago."""
        due = super().update(n)
        if due:
            self._write()
        return due

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: what is in a file stays there."""

    clear = display = refresh

    def _write(self) -> None:
        if not self.disable:
            self.fp.write(f"{' '.join(str(self).split())}\n")
            self.fp.flush()


class _InNotebook(Progress):
    """One line of text for all loops of a cell, without a widget, which a saved file would lose.

    The line is empty once the loops are over. A short loop leaves none.
    """

    _cell: Any = None
    _handle: Any = None
    _drawn = False

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the progress of a loop that is not short; what tqdm would say instead is not."""
        if msg is None and self._time() >= self.start_t + self.delay:
            self._drawn = True
            self._replace(str(self))

    def close(self) -> None:
        """Empties the line; tqdm would not if costs alone had been drawn."""
        drawn, self._drawn = self._drawn, False
        super().close()
        if drawn:
            self._replace("")

    @classmethod
    def _replace(cls, text: str) -> None:
        """Puts a text in the place of the last one."""
        from IPython.display import display  # there, since this is a notebook

        cell, shown = _shell().execution_count, {"text/plain": text}
        if cls._handle is None or cls._cell != cell:
            cls._cell, cls._handle = cell, display(shown, raw=True, display_id=True)
        else:
            cls._handle.update(shown, raw=True)

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: text that others print has a place of its own."""


def progress_bar(
    total: int | None,
    unit: str,
    description: str = "",
    shown: bool = True,
    *,
    initial: int = 0,
    has_rows: bool = False,
) -> Progress:
    """Progress with costs, speed and time left.

    On a terminal it is a bar, in a notebook a line of text, which both vanish at the end. Where
    stderr is a file, it is a line for each :meth:`Progress.row`, or a line a minute for loops that
    have none.

    The environment variable ``TQDM_DISABLE`` overrides this: 0 shows a bar in a file too, 1
    hides all.

    Arguments:
        total: Number of steps; None if it is unknown.
        unit: What one step is, such as ``"batch"``.
        description: Text in front of the bar.
        shown: Whether there is a bar at all.
        initial: Steps that were taken before; they do not count for the speed.
        has_rows: Whether :meth:`Progress.row` is called, such as after epochs.

    Example:
        >>> from pyro_vae.utils.progress import progress_bar
        >>> with progress_bar(total=3, unit="batch") as bar:
        ...     for _ in range(3):
        ...         _ = bar.update()
    """
    asked = os.environ.get("TQDM_DISABLE")
    kind, options = Progress, {}
    if _is_notebook():
        # tqdm writes what it has besides the line into a file, here nowhere.
        kind, options = _InNotebook, {"file": io.StringIO(), "delay": _SOON}
    elif asked is None and not _is_terminal():
        shown = shown and sys.stderr is not None and _is_first() and not _has_own_lines.get()
        every = math.inf if has_rows else _MINUTE
        kind, options = _Lines, {"bar_format": _LINE, "mininterval": every, "miniters": 1}
    return kind(
        total=total,
        unit=f" {unit}",
        desc=f"{description}: " if description else "",
        leave=False,
        disable=not shown or asked not in (None, "", "0"),
        initial=initial,
        **options,
    )


@contextmanager
def without_lines() -> Iterator[None]:
    """No lines in a log file inside the block, for a program that prints its own."""
    token = _has_own_lines.set(True)
    try:
        yield
    finally:
        _has_own_lines.reset(token)


def clock(seconds: float) -> str:
    """Seconds as a clock shows them.

    Example:
        >>> from pyro_vae.utils.progress import clock
        >>> clock(75), clock(3725)
        ('01:15', '1:02:05')
    """
    return str(tqdm.format_interval(seconds))


def _is_first() -> bool:
    """Whether this is the one of several processes that writes."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _is_notebook() -> bool:
    """Whether this runs in a kernel, whose output a notebook shows."""
    return getattr(_shell(), "kernel", None) is not None


def _shell() -> Any:
    """IPython's shell, or None."""
    python = sys.modules.get("IPython")
    return None if python is None else python.get_ipython()
