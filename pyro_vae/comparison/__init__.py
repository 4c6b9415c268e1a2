"""The comparison of objectives, with the same initial parameters, batches and seeds.

``compare`` trains, ``measured`` has gradients and memory, ``kept`` writes runs to a folder and
reads them, and ``result`` makes tables and figures.
"""

from pyro_vae.comparison.compare import OnRun, compare
from pyro_vae.comparison.kept import KEPT as KEPT
from pyro_vae.comparison.result import Comparison

__all__ = ["Comparison", "OnRun", "compare"]


def __dir__() -> list[str]:
    return __all__
