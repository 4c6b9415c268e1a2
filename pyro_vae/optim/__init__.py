"""Pyro optimizers that update all parameters with one torch optimizer."""

from pyro_vae.optim.held import Held, as_pyro
from pyro_vae.optim.joint import Adam, JointOptim, Schedule, from_torch

__all__ = ["Adam", "Held", "JointOptim", "Schedule", "as_pyro", "from_torch"]


def __dir__() -> list[str]:
    return __all__
