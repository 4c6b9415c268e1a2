"""Auto-encoding variational Bayes as a probabilistic program in Pyro.

A :class:`VAE` has a prior, a likelihood and a posterior; a :class:`Pair` has any Pyro model and
guide. :func:`fit` trains it, :func:`log_likelihood` and :func:`elbo` evaluate it, :func:`save` and
:func:`load` keep it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyro_vae import (
    datasets,
    likelihoods,
    models,
    networks,
    objectives,
    optim,
    plots,
    posteriors,
    presets,
    priors,
)
from pyro_vae.evaluation.elbo import elbo  # by full path, else mypy takes it for the module
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.pair import Pair
from pyro_vae.storage import load, save
from pyro_vae.training.fit import fit
from pyro_vae.vae import VAE
from pyro_vae.version import __version__

if TYPE_CHECKING:
    from pyro_vae import comparison, estimators, evaluation, gradients
    from pyro_vae.distributions import flows

__all__ = [
    "VAE",
    "Pair",
    "__version__",
    "comparison",
    "datasets",
    "elbo",
    "estimators",
    "evaluation",
    "fit",
    "flows",
    "gradients",
    "likelihoods",
    "load",
    "log_likelihood",
    "models",
    "networks",
    "objectives",
    "optim",
    "plots",
    "posteriors",
    "presets",
    "priors",
    "save",
]


def __getattr__(name: str) -> Any:
    """Imports a module at its first use, which keeps ``import pyro_vae`` fast."""
    if name == "flows":
        return import_module("pyro_vae.distributions.flows")
    if name in __all__:
        return import_module(f"pyro_vae.{name}")
    raise AttributeError(f"module 'pyro_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
