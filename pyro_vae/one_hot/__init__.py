"""One-hot codes as latents: ``priors.OneHotCategorical`` and ``posteriors.OneHotCategorical``."""

from pyro_vae.one_hot.posterior import OneHotCategorical as OneHotPosterior
from pyro_vae.one_hot.prior import OneHotCategorical as OneHotPrior

__all__ = ["OneHotPosterior", "OneHotPrior"]


def __dir__() -> list[str]:
    return __all__
