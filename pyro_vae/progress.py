"""The progress bar of long loops."""

import os
from typing import Any

from tqdm.auto import tqdm


def progress_bar(total: int, unit: str, description: str = "") -> "tqdm[Any]":
    """A bar on a terminal or in a notebook; none where output goes to a file.

    tqdm's own environment variable, ``TQDM_DISABLE``, has the last word.
    """
    asked = os.environ.get("TQDM_DISABLE")  # which tqdm's bar for notebooks does not read
    disable = None if asked is None else asked not in ("", "0")
    return tqdm(total=total, unit=f" {unit}", desc=description, leave=False, disable=disable)
