"""Models: further pairs that are composed of parts, one in each file."""

from pyro_vae.models.hierarchical import HierarchicalVAE

__all__ = ["HierarchicalVAE"]


def __dir__() -> list[str]:
    return __all__
