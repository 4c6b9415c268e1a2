"""Warnings that show the line of the user's program."""

import inspect
import warnings

__all__ = ["warn"]

_INNER = "pyro_vae", "pyro", "torch", "contextlib"


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the nearest line that is neither in this package, nor in Pyro or torch.

    Arguments:
        message: The text.
        category: The kind of warning.

    Example:
        >>> import warnings
        >>> from pyro_vae.utils.warn import warn
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("a text")
        >>> caught[0].message
        UserWarning('a text')
    """
    frame, level = inspect.currentframe(), 0
    while frame is not None and (not level or _is_inner(frame.f_globals)):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)


def _is_inner(names: dict[str, object]) -> bool:
    return str(names.get("__name__")).partition(".")[0] in _INNER
