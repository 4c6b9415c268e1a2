"""Whether a program is static: whether a graph does all that its runs do."""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from pyro_vae.compile.calls import Calls
from pyro_vae.compile.capture import PythonRandomState, RandomState
from pyro_vae.compile.reach import Reach, Unseen

__all__ = ["UNCOMPILED", "NotCompiled", "NotStatic", "NotYet", "static_reach"]

UNCOMPILED = "without compiled() it runs uncompiled"


class NotCompiled(RuntimeError):
    """torch cannot compile a program."""


class NotStatic(NotCompiled):
    """A program is not static: it reads a tensor's value, or has other state than tensors."""


class NotYet(NotCompiled):
    """A program cannot be compiled before it has run once."""


def static_reach(
    runs: Sequence[Callable[[], Iterable[nn.Module]]],
    roots: Sequence[object],
    tensors: Sequence[Tensor],
) -> Reach:
    """Runs a program some times, and compares what is in its reach before and after.

    Arguments:
        runs: Functions that run the program, and return the modules that were called. The last
            is compared with those before, which may still set up what it keeps.
        roots: Objects that belong to the program.
        tensors: Tensors on the devices where the program draws random numbers.

    Returns:
        What is in the program's reach. Afterwards the generators have their states back; and all
        that is in reach, if the program is not static.

    Raises:
        NotStatic: The program changes something besides tensors, calls what a graph does not
            repeat, draws random numbers of Python or NumPy, or reads something whose changes
            cannot be seen.
    """
    random, python, before = RandomState(tensors), PythonRandomState(), _reach(roots)
    calls, modules, reach = Calls(), list[nn.Module](), before
    try:
        for iterator in before.iterators():  # A run would take its next value.
            raise _not_followed(iterator)
        for run in runs:
            last = reach
            with calls.recorded():
                modules += run()
            random.restore()
            reach = _reach([*roots, *modules], calls)
        _check(last.changed(), calls.effect, python != PythonRandomState())
    except NotStatic:
        before.restore()
        raise
    finally:
        random.restore()
        python.restore()
    return reach


def _reach(roots: Sequence[object], calls: Calls | None = None) -> Reach:
    try:
        return Reach(roots, calls)
    except Unseen as error:
        raise _not_followed(str(error)) from None
    except Exception as error:  # by an object's own methods, such as those of a dict's subclass
        reason = f"objects that cannot be compared ({type(error).__name__}: {error})"
        raise _not_followed(reason) from error


def _not_followed(what: str) -> NotStatic:
    return NotStatic(
        f"compiled: model or guide reads {what}, which a graph cannot follow; {UNCOMPILED}"
    )


def _check(changed: str, effect: str, draws: bool) -> None:
    does = f"changes {changed} as it runs" if changed else effect
    if draws and not does:
        does = "draws random numbers of Python or NumPy"
    if does:
        raise NotStatic(
            f"compiled: model or guide {does}, which a graph does not repeat; {UNCOMPILED}"
        )
