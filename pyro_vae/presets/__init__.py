"""Presets: named VAEs and other pairs, those of the lecture, of papers and of Pyro's example."""

from pyro_vae.presets.named import Preset, build, get, names
from pyro_vae.presets.structures import CLASSES

__all__ = ["CLASSES", "Preset", "build", "get", "names"]


def __dir__() -> list[str]:
    return __all__
