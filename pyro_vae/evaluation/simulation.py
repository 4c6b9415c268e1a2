"""Data simulated from the model of a pair, and the site that has them."""

import torch
from torch import Tensor

from pyro_vae.contracts import call, check_context
from pyro_vae.evaluation.log_densities import Latents, LogDensities
from pyro_vae.pair import Pair
from pyro_vae.utils.context import Batch, Context, Examples, as_batch, as_context, rows
from pyro_vae.utils.modules import device_of
from pyro_vae.vae import VAE


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


def simulated(
    pair: Pair, count: int, x: Batch | None, context: Context | None
) -> tuple[Examples, Latents]:
    """Draws x and z jointly from the model; z has one sample for each example.

    Arguments:
        pair: The pair.
        count: The number of examples of a VAE.
        x: Examples of another pair, whose shape and context the simulated data take.
        context: The context of a VAE, with a row for each example.

    Raises:
        TypeError: `x` is given for a VAE, or missing for another pair.
        ValueError: The model observes something else than x, or the distribution of x depends on
            x itself.
    """
    device = device_of(pair)
    if isinstance(pair, VAE):
        if x is not None:
            raise TypeError(
                "x: got it with a VAE, expected None: a VAE draws num_examples examples itself, "
                "given their context="
            )
        given = pair.placed(as_context(context, count))
        check_context(pair, given, values=True)
        p_z = call(pair, "prior", context=given)
        z = p_z.sample() if p_z.batch_shape else p_z.sample((count,))
        drawn = call(pair, "likelihood", z, context=given).sample()
        return (drawn, *given), {"z": z[None]}
    if x is None or context is not None:
        raise TypeError(
            "x: got None, expected examples, or a tuple (x, *context), whose shape and context "
            "the simulated data of this pair take"
            if x is None
            else "context: got it with a pair, expected it in the tuple x=(x, *context)"
        )
    batch = tuple(entry.to(device) for entry in as_batch(x))
    if not pair.is_set_up:
        pair.setup(*batch)
    densities = LogDensities(pair.model, pair.guide, batch)
    site = observed_site(densities, batch)
    latents, values = densities.simulated(batch)
    complete = values[site]
    made = (complete, *batch[1:])
    if callable(joined := getattr(pair, "as_batch", None)):
        made = joined(values, batch)  # other sites say what is missing, and which label x has
    drawn = made[0]
    if drawn.shape != batch[0].shape:
        raise ValueError(
            f'model: observes values of shape {tuple(drawn.shape)} at the site "{site}" for x of '
            f"shape {tuple(batch[0].shape)}, expected x itself, which is simulated"
        )
    check_simulates(densities, site, batch, latents, complete)
    return (drawn.to(batch[0].dtype), *made[1:]), latents
