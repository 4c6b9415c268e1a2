"""Judgement: log-likelihood and ELBO, their errors, and what lies behind them."""

from pyro_vae.estimates import (
    Elbo,
    LogLikelihood,
    UnreliableWeights,
    data_hash,
    density_draw,
    elbo,
    log_likelihood,
)

__all__ = [
    "Elbo",
    "LogLikelihood",
    "UnreliableWeights",
    "data_hash",
    "density_draw",
    "elbo",
    "log_likelihood",
]
