"""Likelihoods p(x|z): modules whose ``forward(z)`` returns a distribution over x.

For z of shape ``(*batch, z_dim)``, the distribution has ``batch_shape batch`` and ``event_shape
x_shape``. Any module with such a ``forward`` can be used as a likelihood. One that needs k > 1
numbers a pixel takes a network whose output has the shape ``(*batch, k, *x_shape)``. There is a
file for each kind of x.
"""

from pyro_vae.likelihoods.binary import Bernoulli
from pyro_vae.likelihoods.columns import Column, Columns
from pyro_vae.likelihoods.counts import NegativeBinomial, Poisson
from pyro_vae.likelihoods.levels import Categorical, DiscretizedLogistic
from pyro_vae.likelihoods.observed import Observed
from pyro_vae.likelihoods.real import SCALE_FLOOR, Gaussian, Laplace, Scale, StudentT
from pyro_vae.likelihoods.unit import Beta, ContinuousBernoulli

__all__ = [
    "SCALE_FLOOR",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Column",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "NegativeBinomial",
    "Observed",
    "Poisson",
    "Scale",
    "StudentT",
]


def __dir__() -> list[str]:
    return __all__
