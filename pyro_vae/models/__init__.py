"""Models: further pairs that are composed of parts, one in each file."""

from pyro_vae.models.hierarchical import HierarchicalVAE
from pyro_vae.models.not_missing_at_random import NotMissingAtRandom

__all__ = ["HierarchicalVAE", "NotMissingAtRandom"]


def __dir__() -> list[str]:
    return __all__
