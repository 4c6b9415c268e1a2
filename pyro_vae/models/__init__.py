"""Models: further pairs that are composed of parts, one in each file."""

from pyro_vae.models.components import Classifier
from pyro_vae.models.hierarchical import HierarchicalVAE
from pyro_vae.models.mixture import MixtureVAE
from pyro_vae.models.not_missing_at_random import NotMissingAtRandom
from pyro_vae.models.semi_supervised import SemiSupervisedVAE

__all__ = [
    "Classifier",
    "HierarchicalVAE",
    "MixtureVAE",
    "NotMissingAtRandom",
    "SemiSupervisedVAE",
]


def __dir__() -> list[str]:
    return __all__
