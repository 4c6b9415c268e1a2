"""Distributions, supports and KL divergences that torch and Pyro lack or compute less exactly."""

from pyro_vae.distributions.bernoulli import BernoulliEvent, ContinuousBernoulli, CrossEntropy
from pyro_vae.distributions.columns import Columns, OnColumns, by_element, index_of, is_class
from pyro_vae.distributions.flows import FromZuko
from pyro_vae.distributions.intervals import OntoInterval, OpenInterval, clamp_inwards
from pyro_vae.distributions.kl import check_analytic_kl
from pyro_vae.distributions.kl import describe as describe_distribution
from pyro_vae.distributions.labels import Labels
from pyro_vae.distributions.low_rank_normal import LowRankNormal
from pyro_vae.distributions.mixtures import Mixture, NormalMixture, lower_triangular
from pyro_vae.distributions.observed import Completed, Observed, OrNaN, elementwise, inside, or_nan
from pyro_vae.distributions.one_hot import OneHotCodes, RelaxedOneHotCodes
from pyro_vae.distributions.pixels import (
    Beta,
    DiscretizedLogistic,
    Levels,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from pyro_vae.distributions.points import latent_point, point
from pyro_vae.distributions.supports import (
    check_finite,
    check_on_support,
    ends_of,
    is_real,
    same_support,
    scored_support,
    support_of,
    takes_nan,
    varies,
)
from pyro_vae.distributions.supports import describe as describe_support

__all__ = [
    "BernoulliEvent",
    "Beta",
    "Columns",
    "Completed",
    "ContinuousBernoulli",
    "CrossEntropy",
    "DiscretizedLogistic",
    "FromZuko",
    "Labels",
    "Levels",
    "LowRankNormal",
    "Mixture",
    "NegativeBinomial",
    "NormalMixture",
    "Observed",
    "OnColumns",
    "OneHotCodes",
    "OntoInterval",
    "OpenInterval",
    "OrNaN",
    "Poisson",
    "RelaxedOneHotCodes",
    "StudentT",
    "by_element",
    "check_analytic_kl",
    "check_finite",
    "check_on_support",
    "clamp_inwards",
    "describe_distribution",
    "describe_support",
    "elementwise",
    "ends_of",
    "index_of",
    "inside",
    "is_class",
    "is_real",
    "latent_point",
    "lower_triangular",
    "or_nan",
    "point",
    "same_support",
    "scored_support",
    "support_of",
    "takes_nan",
    "varies",
]
