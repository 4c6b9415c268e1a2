"""JSON files: written whole, with one rule for the numbers that JSON does not have.

NaN is written as ``null`` and infinities as ``"inf"`` and ``"-inf"``; :func:`number` reads them
back.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes a value as JSON, and replaces the file whole: a failure leaves the former file."""
    text = json.dumps(writable(value), indent=indent, allow_nan=False)
    new = path.with_name(path.name + ".new")
    new.write_text(text + "\n")
    os.replace(new, path)


def number(value: Any) -> float:
    """The float that :func:`write_json` wrote as `value`.

    Raises:
        ValueError: `value` is neither a number nor null, ``"inf"`` or ``"-inf"``.
    """
    if value is None:
        return math.nan
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain and value not in ("inf", "-inf"):
        raise ValueError(f'got {value!r}, expected a number, null, "inf" or "-inf"')
    return float(value)


def writable(value: Any) -> Any:
    """A value with NaN as None and infinities as strings, at any depth."""
    if isinstance(value, Mapping):
        return {key: writable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [writable(entry) for entry in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)
