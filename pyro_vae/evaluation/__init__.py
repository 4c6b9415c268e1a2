"""Evaluation: log-likelihood and ELBO with their errors, and criticism of trained VAEs.

:func:`log_likelihood` takes importance weights from an estimator (``estimators/``, one a file). An
estimator draws and scores samples of ``blocks`` of examples, with the ``log_densities`` of a model
and guide.
"""

from pyro_vae.contracts import Refused
from pyro_vae.evaluation.calibration import Calibration, calibration
from pyro_vae.evaluation.certify import Certificate, certify
from pyro_vae.evaluation.clusters import cluster_accuracy
from pyro_vae.evaluation.criticism import (
    ActiveUnits,
    PredictiveCheck,
    active_units,
    posterior_predictive,
)
from pyro_vae.evaluation.diagnosis import Diagnosis, Finding, diagnose
from pyro_vae.evaluation.elbo import Elbo, elbo
from pyro_vae.evaluation.elbo_gap import ElboGap, elbo_gap
from pyro_vae.evaluation.imputation import Imputation, impute
from pyro_vae.evaluation.inputs import data_hash, density_draw
from pyro_vae.evaluation.log_likelihood import estimated as estimated
from pyro_vae.evaluation.log_likelihood import log_likelihood
from pyro_vae.evaluation.psis import khat_threshold as khat_threshold
from pyro_vae.evaluation.result import LogLikelihood, UnreliableWeights

__all__ = [
    "ActiveUnits",
    "Calibration",
    "Certificate",
    "Diagnosis",
    "Elbo",
    "ElboGap",
    "Finding",
    "Imputation",
    "LogLikelihood",
    "PredictiveCheck",
    "Refused",
    "UnreliableWeights",
    "active_units",
    "calibration",
    "certify",
    "cluster_accuracy",
    "data_hash",
    "density_draw",
    "diagnose",
    "elbo",
    "elbo_gap",
    "impute",
    "log_likelihood",
    "posterior_predictive",
]


def __dir__() -> list[str]:
    return __all__
