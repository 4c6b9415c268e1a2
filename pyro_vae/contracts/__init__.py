"""Contracts: checks of parts, models and guides against each other and against data.

All data pass through :func:`check`. It returns them as they will be used, with the distributions
of the first example.
"""

from pyro_vae.contracts.data import check_data, check_dtype, check_float
from pyro_vae.contracts.holes import (
    check_entries,
    check_no_nan,
    holes_named,
    observes_holes,
    takes_holes,
)
from pyro_vae.contracts.pairs import check_observations, check_programs, check_training
from pyro_vae.contracts.parts import (
    Checked,
    call,
    check,
    check_context,
    check_latents,
    check_layer,
    check_likelihood,
    check_posterior,
    check_prior,
    check_shape,
    check_supports,
)
from pyro_vae.contracts.sites import (
    PLATE,
    Refused,
    check_latent_sites,
    check_masks,
    check_observed,
    check_order,
    check_same_sites,
    check_site,
    explained,
    is_scaled,
    reason_of,
    unchanged,
)

__all__ = [
    "PLATE",
    "Checked",
    "Refused",
    "call",
    "check",
    "check_context",
    "check_data",
    "check_dtype",
    "check_entries",
    "check_float",
    "check_latent_sites",
    "check_latents",
    "check_layer",
    "check_likelihood",
    "check_masks",
    "check_no_nan",
    "check_observations",
    "check_observed",
    "check_order",
    "check_posterior",
    "check_prior",
    "check_programs",
    "check_same_sites",
    "check_shape",
    "check_site",
    "check_supports",
    "check_training",
    "explained",
    "holes_named",
    "is_scaled",
    "observes_holes",
    "reason_of",
    "takes_holes",
    "unchanged",
]


def __dir__() -> list[str]:
    return __all__
