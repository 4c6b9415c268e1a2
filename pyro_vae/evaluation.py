"""Judgement: log-likelihood and ELBO, their errors, and what lies behind them."""

from pyro_vae.certificates import Certificate, certify
from pyro_vae.criticism import ActiveUnits, PredictiveCheck, active_units, posterior_predictive
from pyro_vae.elbo_gaps import ElboGap, elbo_gap
from pyro_vae.elbos import Elbo, elbo
from pyro_vae.judging import data_hash, density_draw
from pyro_vae.log_likelihoods import LogLikelihood, UnreliableWeights, log_likelihood

__all__ = [
    "ActiveUnits",
    "Certificate",
    "Elbo",
    "ElboGap",
    "LogLikelihood",
    "PredictiveCheck",
    "UnreliableWeights",
    "active_units",
    "certify",
    "data_hash",
    "density_draw",
    "elbo",
    "elbo_gap",
    "log_likelihood",
    "posterior_predictive",
]
