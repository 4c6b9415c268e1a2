"""Objectives: Pyro ELBOs for a plain ``pyro.infer.SVI``, each with what it estimates and when.

To add one, write a file with a function that makes it, decorated with ``registry.named`` where a
command line shall know it, and import the function here.
"""

from pyro_vae.objectives.compiled import Compiled, compiled
from pyro_vae.objectives.elbo import AnalyticKL_ELBO, analytic_kl, sticking_the_landing, trace_elbo
from pyro_vae.objectives.importance import ciwae, dreg, iwae, miwae, piwae, renyi
from pyro_vae.objectives.importance_weighted import ImportanceWeightedELBO
from pyro_vae.objectives.pathwise import PathwiseELBO
from pyro_vae.objectives.registry import names, parse
from pyro_vae.objectives.terms import WithTerms
from pyro_vae.objectives.traits import Traits, check_elbo, traits
from pyro_vae.objectives.warm_up import Annealed, schedule_of, warm_up

__all__ = [
    "AnalyticKL_ELBO",
    "Annealed",
    "Compiled",
    "ImportanceWeightedELBO",
    "PathwiseELBO",
    "Traits",
    "WithTerms",
    "analytic_kl",
    "check_elbo",
    "ciwae",
    "compiled",
    "dreg",
    "iwae",
    "miwae",
    "names",
    "parse",
    "piwae",
    "renyi",
    "schedule_of",
    "sticking_the_landing",
    "trace_elbo",
    "traits",
    "warm_up",
]
