"""Auto-encoding variational Bayes as a probabilistic program in Pyro."""

from pyro_vae import (
    datasets,
    flows,
    likelihoods,
    networks,
    objectives,
    optim,
    plots,
    posteriors,
    presets,
    priors,
)
from pyro_vae.evaluation import elbo, log_likelihood
from pyro_vae.runs import load, save
from pyro_vae.training import fit
from pyro_vae.vae import VAE

__all__ = [
    "VAE",
    "datasets",
    "elbo",
    "fit",
    "flows",
    "likelihoods",
    "load",
    "log_likelihood",
    "networks",
    "objectives",
    "optim",
    "plots",
    "posteriors",
    "presets",
    "priors",
    "save",
]
