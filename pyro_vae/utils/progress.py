"""Progress bars for long loops."""

import os
from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar"]


def progress_bar(
    total: int | None, unit: str, description: str = "", shown: bool = True
) -> "tqdm[Any]":
    """A progress bar on a terminal or in a notebook; none where the output goes to a file.

    The environment variable ``TQDM_DISABLE`` overrides this: 0 shows the bar, 1 hides it.

    Arguments:
        total: Number of steps; None if it is unknown.
        unit: What one step is, such as ``"batch"``.
        description: Text in front of the bar.
        shown: Whether there is a bar at all.

    Example:
        >>> from pyro_vae.utils.progress import progress_bar
        >>> with progress_bar(total=3, unit="batch") as bar:
        ...     for _ in range(3):
        ...         _ = bar.update()
    """
    asked = os.environ.get("TQDM_DISABLE")  # tqdm's bar for notebooks does not read it
    disable = None if asked is None else asked not in ("", "0")
    disable = disable if shown else True
    return tqdm(total=total, unit=f" {unit}", desc=description, leave=False, disable=disable)
