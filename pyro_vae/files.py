"""Files that are replaced whole, so that a failure leaves the old one."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replaces a JSON file whole."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value, indent=indent) + "\n")
    os.replace(new, path)


def finite(value: Any) -> Any:
    """A value for JSON, which has no infinities: these and NaN become strings."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
