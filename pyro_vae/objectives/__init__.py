"""Objectives: Pyro ELBOs for ``fit`` or a plain ``pyro.infer.SVI``, one estimator in each file.

To add an objective, write a file with a function that returns it, and import the function here.
The decorator ``registry.named`` makes it known to :func:`parse` and the command line.
"""

from pyro_vae.objectives.classified import classified
from pyro_vae.objectives.compiled import Compiled as Compiled
from pyro_vae.objectives.compiled import compiled
from pyro_vae.objectives.description import described as described
from pyro_vae.objectives.elbo import AnalyticKL_ELBO as AnalyticKL_ELBO
from pyro_vae.objectives.elbo import analytic_kl, sticking_the_landing, trace_elbo
from pyro_vae.objectives.enumerated import EnumeratedELBO as EnumeratedELBO
from pyro_vae.objectives.enumerated import enumerated
from pyro_vae.objectives.free_bits import free_bits
from pyro_vae.objectives.free_bits import free_bits_of as free_bits_of
from pyro_vae.objectives.importance import ciwae, dreg, iwae, miwae, piwae, renyi
from pyro_vae.objectives.importance_weighted import (
    ImportanceWeightedELBO as ImportanceWeightedELBO,
)
from pyro_vae.objectives.loss_graph import LossGraph as LossGraph
from pyro_vae.objectives.pathwise import PathwiseELBO as PathwiseELBO
from pyro_vae.objectives.registry import names, parse
from pyro_vae.objectives.terms import WithTerms as WithTerms
from pyro_vae.objectives.terms import parts_of as parts_of
from pyro_vae.objectives.traits import Traits, traits
from pyro_vae.objectives.traits import check_elbo as check_elbo
from pyro_vae.objectives.traits import no_graph as no_graph
from pyro_vae.objectives.warm_up import Annealed as Annealed
from pyro_vae.objectives.warm_up import schedule_of as schedule_of
from pyro_vae.objectives.warm_up import warm_up
from pyro_vae.objectives.weighted import beta
from pyro_vae.objectives.wrapper import layers as layers

__all__ = [
    "Traits",
    "analytic_kl",
    "beta",
    "ciwae",
    "classified",
    "compiled",
    "dreg",
    "enumerated",
    "free_bits",
    "iwae",
    "miwae",
    "names",
    "parse",
    "piwae",
    "renyi",
    "sticking_the_landing",
    "trace_elbo",
    "traits",
    "warm_up",
]


def __dir__() -> list[str]:
    return __all__
