"""Files that are replaced whole, so that a failure leaves the old one."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replaces a JSON file whole."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value, indent=indent) + "\n")
    os.replace(new, path)
