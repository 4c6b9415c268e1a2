"""What a page says, and what its explorer reads."""

import json
import re
from pathlib import Path
from typing import Any


def without_scripts(page: Path) -> str:
    """The elements of a page, without what is in its scripts and styles."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.S)


def texts(page: Path) -> str:
    """What a page says."""
    return re.sub(r"<[^>]*>", " ", without_scripts(page))


def spec_of(page: Path) -> dict[str, Any]:
    """What the explorer of a page reads."""
    found = re.search(r'id="explorer-spec">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read
