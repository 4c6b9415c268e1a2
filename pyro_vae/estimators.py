"""Estimators of log p(x), for the argument `estimator` of ``log_likelihood``.

They are defined in ``pyro_vae.evaluation.estimators``, one in each file.

Example:
    >>> sorted(estimators.names())
    ['ais', 'exact', 'importance', 'prior']
"""

from pyro_vae.evaluation.estimators import AIS, Estimator, Importance, Prior, names

__all__ = ["AIS", "Estimator", "Importance", "Prior", "names"]


def __dir__() -> list[str]:
    return __all__
