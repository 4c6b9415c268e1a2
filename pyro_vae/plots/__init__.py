"""Figures from tensors, one function a figure; each draws on ``ax``, or a new one, and returns it.

matplotlib is imported when a figure is drawn, so that importing the package stays fast.
"""

from pyro_vae.plots.axes import COLOURS, panels, save
from pyro_vae.plots.charts import bounds, dots, khat, ranks
from pyro_vae.plots.curves import bands, lines, training_curves
from pyro_vae.plots.hierarchy import layers
from pyro_vae.plots.latent import latent
from pyro_vae.plots.paths import interpolation, traversal
from pyro_vae.plots.pictures import generated, images, manifold, reconstructions, side_by_side
from pyro_vae.plots.style import style
from pyro_vae.plots.tables import columns

__all__ = [
    "COLOURS",
    "bands",
    "bounds",
    "columns",
    "dots",
    "generated",
    "images",
    "interpolation",
    "khat",
    "latent",
    "layers",
    "lines",
    "manifold",
    "panels",
    "ranks",
    "reconstructions",
    "save",
    "side_by_side",
    "style",
    "training_curves",
    "traversal",
]


def __dir__() -> list[str]:
    return __all__
