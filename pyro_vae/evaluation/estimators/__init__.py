"""Estimators of log p(x): the source of the importance weights, one estimator a file.

To add one, write a file with a class that has the members of :class:`Estimator`. Decorate the
class with ``base.named`` and import it here; :func:`parse` then finds it by its name.
"""

from pyro_vae.evaluation.estimators.ais import AIS
from pyro_vae.evaluation.estimators.base import (
    EXACT,
    Estimator,
    advice_of,
    names,
    parse,
    settings_of,
)
from pyro_vae.evaluation.estimators.exact import evidence
from pyro_vae.evaluation.estimators.importance import Importance
from pyro_vae.evaluation.estimators.prior import Prior

__all__ = [
    "AIS",
    "EXACT",
    "Estimator",
    "Importance",
    "Prior",
    "advice_of",
    "evidence",
    "names",
    "parse",
    "settings_of",
]


def __dir__() -> list[str]:
    return __all__
