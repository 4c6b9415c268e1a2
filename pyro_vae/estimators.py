"""Estimators of log p(x) for ``log_likelihood(..., estimator=)``.

They live in :mod:`pyro_vae.evaluation.estimators`; this is where users look for them.
"""

from pyro_vae.evaluation.estimators import AIS, Estimator, Importance, Prior, names

__all__ = ["AIS", "Estimator", "Importance", "Prior", "names"]


def __dir__() -> list[str]:
    return __all__
