"""Data simulated from the model of a pair, and the site that has them."""

import torch
from torch import Tensor

from pyro_vae.evaluation.log_densities import Latents, LogDensities
from pyro_vae.utils.context import Examples, rows


def observed_site(densities: LogDensities, batch: Examples) -> str:
    """The name of the site at which a model observes x.

    It is the only observed site that has values, or the one with the name ``"x"``.

    Arguments:
        densities: The log-densities of the pair.
        batch: Examples with their context.

    Raises:
        ValueError: There are several such sites, and none has the name ``"x"``.
    """
    values = densities.observations(rows(batch, slice(1)))
    names = [name for name, value in values.items() if value.numel()]  # pyro.factor has none
    if len(names) == 1:
        return names[0]
    if "x" not in names:
        raise ValueError(
            f"model: got the observed sites {', '.join(names)}, expected one of them, or one of "
            'the name "x", whose values can be simulated'
        )
    return "x"


def check_simulates(
    densities: LogDensities, site: str, batch: Examples, z: Latents, drawn: Tensor
) -> None:
    """Raises ValueError if the distribution of an observed site depends on x itself.

    A model that reads the x that it observes, such as an autoregressive decoder by teacher
    forcing, would draw values given the data, not given z alone.

    Arguments:
        densities: The log-densities of the pair.
        site: The observed site.
        batch: Some examples.
        z: One sample of the latents for each of them.
        drawn: Values drawn at the site, which take the place of x.
    """
    x = batch[0]
    if drawn.shape != x.shape:
        return
    # The example's own x and another one, which is drawn; the values that are scored stay.
    here, there = (
        densities.distributions("model", (own, *batch[1:]), z)[site].log_prob(drawn)
        for own in (x, drawn.to(x.dtype))
    )
    if not torch.allclose(here, there, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ValueError(
            f'model: the distribution of the site "{site}" depends on x itself, expected one that '
            "depends on the latents and the context alone: data cannot be simulated from it in "
            "one call"
        )
