"""``python -m tests.gallery`` draws the pictures of docs/gallery.md, by the page's own lines."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image

from pyro_vae import plots
from pyro_vae.evaluation import UnreliableWeights

PAGE = Path(__file__).parent.parent / "docs" / "gallery.md"


def steps(text: str) -> list[tuple[str, str | None]]:
    """The blocks of code in their order, each with the picture that follows it, or None."""
    pattern = r"```python\n(.*?)```\n(?:\n!\[[^\]]+\]\(([^)]+)\))?"
    found = re.findall(pattern, text, flags=re.DOTALL)
    return [(code, picture or None) for code, picture in found]


def draw(folder: Path, change: Callable[[str], str] = str) -> dict[str, Any]:
    """Runs the blocks one after the other, and writes each picture to a folder.

    Arguments:
        folder: What the links of the pictures are relative to.
        change: Changes the code of a block before it runs.

    Returns:
        The axes of each picture by its link.
    """
    mpl.use("agg")
    warnings.simplefilter("ignore", UnreliableWeights)
    names: dict[str, Any] = {}
    drawn = {}
    for code, picture in steps(PAGE.read_text()):
        exec(compile(change(code), str(PAGE), "exec"), names)
        if picture is not None:
            path = folder / picture
            path.parent.mkdir(exist_ok=True)
            plots.save(names["ax"], path)
            with Image.open(path) as image:  # a third of the size, and no difference to be seen
                fewer = image.convert("RGB").quantize(64)
            fewer.save(path, optimize=True)
            drawn[picture] = names["ax"]
    return drawn


if __name__ == "__main__":
    for written in draw(PAGE.parent):
        print(written)
