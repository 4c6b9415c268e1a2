"""Data sets: images in memory as uint8 levels, with four ways to make pixels, and tables."""

from pyro_vae.datasets.images import (
    PIXELS,
    Dataset,
    Pixels,
    binarize,
    bits_per_dim,
    check_pixels,
    dequantize,
    load,
    names,
    to_pixels,
)
from pyro_vae.datasets.images import fresh_pixels as fresh_pixels
from pyro_vae.datasets.labels import keep_labels
from pyro_vae.datasets.tables import Table

__all__ = [
    "PIXELS",
    "Dataset",
    "Pixels",
    "Table",
    "binarize",
    "bits_per_dim",
    "check_pixels",
    "dequantize",
    "keep_labels",
    "load",
    "names",
    "to_pixels",
]


def __dir__() -> list[str]:
    return __all__
